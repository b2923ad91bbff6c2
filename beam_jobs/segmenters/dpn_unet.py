"""The network of HPA-Cell-Segmentation in torch: a U-Net whose encoder is a Dual Path Network 92. Inference only.

Dual Path Networks: Chen et al. 2017, arXiv:1707.01629. The modules are named so that the state dict has the names of the
published weights; nothing here trains, so batch norm keeps no counter of batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from beam_jobs.segmenters.winograd import WinogradConv

# Channels of the encoder's five stages: what the decoder joins.
_STAGE_WIDTHS = (64, 336, 704, 1552, 2688)
_BATCH_NORM_EPS = 0.001
_GROUPS = 32
# Measured at 512 px: below it the sums around the products cost more than the products saved.
_MIN_WINOGRAD_CHANNELS = 700


class _BatchNorm(nn.Module):
    def __init__(self, num_channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels))
        self.bias = nn.Parameter(torch.empty(num_channels))
        self.register_buffer("running_mean", torch.empty(num_channels))
        self.register_buffer("running_var", torch.empty(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=_BATCH_NORM_EPS)


class _NormReluConv(nn.Module):
    def __init__(self, num_in: int, num_out: int, *, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.bn = _BatchNorm(num_in)
        self.conv = nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.relu(self.bn(x), inplace=True))


class _NormRelu(nn.Module):
    def __init__(self, num_channels: int):
        super().__init__()
        self.bn = _BatchNorm(num_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(x), inplace=True)


class _DualPathBlock(nn.Module):
    """Adds to a residual path of fixed width and appends to a dense path that grows; both travel as one tensor."""

    def __init__(self, num_in: int, *, width: int, growth: int, projection_stride: int = 0):
        super().__init__()
        self._width = width
        bottleneck = 96 * width // 256
        if projection_stride:
            projection = _NormReluConv(num_in, width + 2 * growth, stride=projection_stride)
            self.add_module(f"c1x1_w_s{projection_stride}", projection)
        self._projection_name = f"c1x1_w_s{projection_stride}" if projection_stride else None
        self.c1x1_a = _NormReluConv(num_in, bottleneck)
        self.c3x3_b = _NormReluConv(bottleneck, bottleneck, kernel=3, stride=projection_stride or 1, groups=_GROUPS)
        self.c1x1_c = _NormReluConv(bottleneck, width + growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = getattr(self, self._projection_name)(x) if self._projection_name else x
        grown = self.c1x1_c(self.c3x3_b(self.c1x1_a(x)))
        residual = shortcut[:, : self._width] + grown[:, : self._width]
        return torch.cat([residual, shortcut[:, self._width :], grown[:, self._width :]], dim=1)


class _UpsampleConv(nn.Module):
    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        self.layer = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(num_in, num_out, 3, padding=1), nn.ReLU(True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class _Bottleneck(nn.Module):
    def __init__(self, num_in: int, num_out: int):
        super().__init__()
        self.seq = nn.Sequential(nn.Conv2d(num_in, num_out, 3, padding=1), nn.ReLU(True))

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.seq(torch.cat([x, skip], dim=1))


class DpnUnet(nn.Module):
    """The network: float[N, 3, H, W] -> logits float[N, 3, H, W]; H and W multiples of 32."""

    def __init__(self):
        super().__init__()
        stem = nn.Sequential(
            nn.Conv2d(3, _STAGE_WIDTHS[0], 7, stride=2, padding=3, bias=False),
            _BatchNorm(_STAGE_WIDTHS[0]),
            nn.ReLU(inplace=True),
        )
        stages = [
            _make_stage(num_in, num_blocks=num_blocks, width=width, growth=growth, stride=stride)
            for num_in, num_blocks, width, growth, stride in (
                (_STAGE_WIDTHS[0], 3, 256, 16, 1),
                (_STAGE_WIDTHS[1], 4, 512, 32, 2),
                (_STAGE_WIDTHS[2], 20, 1024, 24, 2),
                (_STAGE_WIDTHS[3], 3, 2048, 128, 2),
            )
        ]
        stages[0].insert(0, nn.MaxPool2d(3, stride=2, padding=1))
        stages[3].append(_NormRelu(_STAGE_WIDTHS[4]))
        self.encoder_stages = nn.ModuleList([stem, *stages])
        # Decoder stage i ends at the size of encoder stage i; its bottleneck stands at the mirrored place.
        pairs = list(itertools.pairwise(_STAGE_WIDTHS))
        self.decoder_stages = nn.ModuleList([_UpsampleConv(deep, wide) for wide, deep in pairs])
        self.bottlenecks = nn.ModuleList([_Bottleneck(2 * wide, wide) for wide, _ in reversed(pairs)])
        self.last_upsample = _UpsampleConv(_STAGE_WIDTHS[0], _STAGE_WIDTHS[0])
        self.final = nn.Sequential(nn.Conv2d(_STAGE_WIDTHS[0], 3, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits."""
        skips = []
        for stage in self.encoder_stages:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for bottleneck, decoder_stage in zip(self.bottlenecks, reversed(self.decoder_stages), strict=True):
            x = bottleneck(decoder_stage(x), skips.pop())
        return self.final(self.last_upsample(x))


def _make_stage(num_in: int, *, num_blocks: int, width: int, growth: int, stride: int) -> nn.Sequential:
    blocks = []
    for index in range(num_blocks):
        blocks.append(_DualPathBlock(num_in, width=width, growth=growth, projection_stride=0 if index else stride))
        num_in = width + growth * (index + 3)
    return nn.Sequential(*blocks)


def state_shapes() -> dict[str, tuple[int, ...]]:
    """Returns name and shape of each of the network's 499 tensors."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in DpnUnet().state_dict().items()}


def make_network(weights: Mapping[str, np.ndarray], *, device: str, precision: str = "float32") -> DpnUnet:
    """Makes a network that is ready to predict.

    Args:
      weights: float32[...] by name, as `network_weights.check_tensors` lets them pass.
      device: "cpu", "cuda" or "cuda:<n>".
      precision: "float32" or "bfloat16".
    """
    # Without storage until the weights are there: initial values of 139 M parameters cost seconds.
    with torch.device("meta"):
        network = DpnUnet()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, assign=True)
    # cuDNN has such convolutions of its own, and bfloat16 has no digits to spare for them.
    if device == "cpu" and precision == "float32":
        _quicken(network)
    return prepare(network, device=device, precision=precision)


def prepare(network: nn.Module, *, device: str, precision: str = "float32") -> nn.Module:
    """Brings a network, this or a loaded one, to its device, precision and memory layout, and returns it."""
    network.eval().requires_grad_(False)
    return network.to(device=device, dtype=getattr(torch, precision), memory_format=torch.channels_last)


def predict(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Runs a network of `prepare`.

    Args:
      network: gives logits.
      images: float32[N, 3, H, W]; H and W multiples of 32.

    Returns:
      float32[N, 3, H, W]: softmax over the channels.
    """
    parameter = next(network.parameters())
    batch = torch.from_numpy(images).to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
    # TF32 is not float32, and a choice of kernels by their speed differs from run to run.
    with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, benchmark=False, allow_tf32=False):
        return network(batch).float().softmax(dim=1).cpu().numpy()


def _quicken(network: DpnUnet) -> None:
    for upsample in network.decoder_stages:
        if upsample.layer[1].in_channels >= _MIN_WINOGRAD_CHANNELS:
            upsample.layer = nn.Sequential(WinogradConv(upsample.layer[1], doubles=True), nn.ReLU(inplace=True))
    for bottleneck in network.bottlenecks:
        if bottleneck.seq[0].in_channels >= _MIN_WINOGRAD_CHANNELS:
            bottleneck.seq[0] = WinogradConv(bottleneck.seq[0])
