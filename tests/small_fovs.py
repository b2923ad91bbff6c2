"""Small FOVs drawn for tests: bright discs with a nucleus, and their masks as truth."""

import pathlib

import cv2
import numpy as np

from hpa_proto import schema


def draw_fov(*, seed=0, height=96, width=128, num_cells=4, dtype=np.uint8, full=255):
    """Draws a FOV of discs in a grid: (image [H, W, 4], cell_mask uint16[H, W], nucleus_mask uint16[H, W])."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, max(2, full // 40), (height, width, 4))
    cell_mask = np.zeros((height, width), np.uint16)
    nucleus_mask = np.zeros((height, width), np.uint16)
    columns = int(np.ceil(np.sqrt(num_cells)))
    rows = -(-num_cells // columns)
    radius = min(height // rows, width // columns) // 2 - 2
    for index in range(num_cells):
        row, column = divmod(index, columns)
        centre = (int((column + 0.5) * width / columns), int((row + 0.5) * height / rows))
        cv2.circle(cell_mask, centre, radius, index + 1, cv2.FILLED)
        cv2.circle(nucleus_mask, centre, max(1, radius // 3), index + 1, cv2.FILLED)
    texture = rng.uniform(0.4, 0.9, (height, width))
    for channel in ("red", "yellow", "green"):
        image[..., schema.CHANNELS.index(channel)] += (texture * full * 0.8 * (cell_mask > 0)).astype(int)
    image[..., schema.CHANNELS.index("blue")] += (texture * full * 0.8 * (nucleus_mask > 0)).astype(int)
    return np.minimum(image, full).astype(dtype), cell_mask, nucleus_mask


def write_fov(folder, fov_id, image, *, suffix=".png", channels=schema.CHANNELS):
    """Writes one grey file a channel and returns their paths by channel."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for channel in channels:
        paths[channel] = folder / f"{fov_id}_{channel}{suffix}"
        cv2.imwrite(str(paths[channel]), image[..., schema.CHANNELS.index(channel)])
    return paths


def write_set(folder, *, num_fovs=4, labels=("0", "5", "7|0", "16"), num_cells=4, **drawing):
    """Writes images/, masks/ and labels.csv below a folder and returns it."""
    folder = pathlib.Path(folder)
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    lines = ["ID,Label"]
    for index in range(num_fovs):
        fov_id = f"fov-{index}"
        image, cell_mask, nucleus_mask = draw_fov(seed=index, num_cells=num_cells, **drawing)
        write_fov(folder / "images", fov_id, image)
        cv2.imwrite(str(folder / "masks" / f"{fov_id}_cell.png"), cell_mask)
        cv2.imwrite(str(folder / "masks" / f"{fov_id}_nuclei.png"), nucleus_mask)
        lines.append(f"{fov_id},{labels[index % len(labels)]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder
