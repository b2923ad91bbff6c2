"""Packages of the project. `proto/` is imported as `hpa_proto`: a package called `proto` would shadow Beam's proto-plus."""

from setuptools import find_packages, setup

setup(
    name="hpa-single-cell",
    version="0.1.0",
    description="Human Protein Atlas fields of view into single cells, TFRecord shards and a protein-localisation classifier",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=["hpa_proto", *find_packages(include=["beam_jobs*", "trainer*"])],
    package_dir={"hpa_proto": "proto"},
    package_data={
        "hpa_proto": ["*.proto", "templates/*"],
        "beam_jobs": ["templates/*"],
        "trainer": ["configs/*.cfg", "templates/*"],
    },
    install_requires=[
        "absl-py>=2.1",
        "apache-beam>=2.70",
        "cleanlab>=2.9",
        "fsspec>=2025.1",
        "google-crc32c>=1.5",
        "imagecodecs>=2024.1",
        "jinja2>=3.1",
        "keras>=3.12",
        "matplotlib>=3.9",
        "mlxtend>=0.23.4",
        "numpy>=2.0",
        "opencv-python-headless>=4.10",
        "pandas>=2.2",
        "pillow>=10.1",
        "protobuf>=6.31",
        "pyarrow>=18",
        "pycocotools>=2.0.8",
        "safetensors>=0.5",
        "scikit-image>=0.25",
        "scipy>=1.14",
        "tensorboard>=2.19",
        "tensorflow>=2.20",
        "tifffile>=2025.1",
        "tqdm>=4.66",
    ],
    extras_require={
        "s3": ["s3fs"],
        "gs": ["gcsfs"],
        "onnx": ["tf2onnx", "onnx", "onnxruntime"],
        "segmenter": ["torch>=2.4"],
        # Apart: anndata wants an older pandas than the rest.
        "embeddings": ["umap-learn"],
        "anndata": ["anndata"],
        # What the input pipeline is compared with.
        "benchmark": ["torch>=2.4", "grain", "webdataset", "moto[server]>=5.1", "s3fs"],
    },
)
