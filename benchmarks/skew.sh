#!/usr/bin/env bash
# What helps rare classes: the trainer's remedies, and a cap in the plan, on one skewed simulated set, all judged on the same
# FOVs, which are as skewed as those learned from. `make skew` runs it; its comparison/comparison.md is benchmarks/skew.md.
#
#     PYTHON=.venv/bin/python benchmarks/skew.sh FOLDER
set -euo pipefail
python=${PYTHON:-python}
folder=${1:?name a folder to work in}
# The old project's twelve classes, the commonest about sixteen times as common as the rarest.
"$python" -m beam_jobs.synthesize --out_dir="$folder/fovs" --num_fovs=640 --labels=16,12,6,7,14,8,5,4,2,3,0,13 \
    --class_skew=0.25 --height_px=384 --width_px=384 --pixel_size_um=0.32 --num_workers=2
"$python" -m beam_jobs.segment --images="$folder/fovs/images" --labels="$folder/fovs/labels.csv" \
    --cells_dir="$folder/cells" --segmenter=masks --masks_dir="$folder/fovs/masks" --pixel_size_um=0.32 --num_workers=2
shard() {
    "$python" -m beam_jobs.shard --cells_dir="$folder/cells" --image_size_px=64 --splits=train=4,validation=1,test=3 "$@"
}
shard --data_dir="$folder/all"
# FOVs keep their split: what is judged must not be learned.
shard --data_dir="$folder/capped" --max_cells_per_class=250 --splits_of="$folder/all"
run() {
    local name=$1 data=$2
    shift 2
    "$python" -m trainer.train --data_dir="$folder/$data" --runs_dir="$folder/runs" --name="$name" --model=resnet10w16 \
        --batch_size=32 --epochs=10 --steps_per_epoch=150 --optimizer=adamw --learning_rate=3e-3 --weight_decay=0.02 \
        --schedule=cosine --warmup_epochs=1 --monitor=val_macro_f1 --notensorboard "$@"
    "$python" -m trainer.predict --run_dir="$folder/runs/$name" --data_dir="$folder/all" --split=test \
        --out="$folder/runs/$name/predictions-test.parquet"
}
run nothing all
run cap capped
run class_weight all --imbalance=class_weight
run focal all --imbalance=focal
run balanced_sampling all --imbalance=balanced_sampling
"$python" -m trainer.compare "$folder"/runs/{nothing,cap,class_weight,focal,balanced_sampling} --out_dir="$folder/comparison"
