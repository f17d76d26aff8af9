LIMIT=3000 /work/env/lane.sh 0,1 /work/wt/measG /work/env/m24/seg3.log python -m benchmarks.fields --only segmentation --variants ifvd --keep --workdir /work/env/fields_runs/segmentation5
