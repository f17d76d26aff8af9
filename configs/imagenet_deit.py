"""DeiT with its distillation token on ImageNet-1k; configs/attention.py:distillation_token_hard has the digits.

python launch.py --config=configs/imagenet_deit.py[:SIZE,bfloat16,synthetic,tiny]

SIZE       deit_tiny (default; published 74.5, without distillation 72.2), deit_small (81.2, 79.9) or deit_base (83.4,
           81.8)
bfloat16   both networks compute in bfloat16 (parameters, logits and losses stay float32)
synthetic  made images in place of ImageNet, on any machine: the recipe runs, its numbers mean nothing
tiny       a few steps on a few small images: does everything work?

Touvron, Cord, Douze, Massa, Sablayrolles, Jegou, "Training data-efficient image transformers & distillation through
attention", 2020, arXiv 2012.12877. Read from the authors' code (facebookresearch/deit @7e160fe, main.py, losses.py,
README_deit.md, where the numbers are): half the cross-entropy of the class token with labels smoothed by 0.1, half that
of the distillation token with the teacher's decision; 300 epochs, AdamW at 1e-3 for batch 1024 (5e-4 for each 512),
decay 0.05, warm-up of 5 epochs, cosine; three views of each image in a batch (repeated augmentation); mixup 0.8 or
cutmix 1.0, half and half; random erasing 0.25; RandAugment, 2 operations of strength 9; drop-path 0.1, patches of 16;
the average of the weights, of decay 0.99996, is scored too (their tables are of the network itself). The teacher is
RegNetY-16GF (82.9).

Deviations: the teacher is trained by the recipe of configs/imagenet_resnet.py unless --config.teacher.checkpoint=DIR
loads an export, theirs by that of the student. Three views of an image stand side by side in a batch, theirs on several
GPUs; an epoch walks through a third of the images as theirs does, but the next goes on where it ended. The cosine ends
at 0, theirs at 1e-5; crops are bilinear, theirs bicubic; RandAugment has 10 of 15 operations and a strength that does
not vary. Data: as configs/imagenet_resnet.py.
Cost: 371,000 steps of 1024 images and the teacher on each; days on 8 GPUs, an estimate, since we did not run it.
"""

from ml_collections import ConfigDict

from kd_jax.config import base, features, finish, on_images, parse, part, term, training

SIZES = {"deit_tiny": (192, 3), "deit_small": (384, 6), "deit_base": (768, 12)}
CE = "losses.task.cross_entropy_loss"
EPOCHS = 300


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, variants=tuple(SIZES), flags=("bfloat16", "synthetic"))
    (width, heads), dtype = SIZES[variant.variant], "bfloat16" if "bfloat16" in variant.flags else "float32"
    name = variant.variant.replace("deit_", "DeiT-")
    on_images(config, variant, f"RegNetY-16GF to {name}", "imagenet2012", validation=0.01)
    config.teacher.model = dict(name="models.vision.regnet.regnet_y_16gf", kwargs=dict(dtype=dtype))
    student = dict(patch=16, width=width, depth=12, heads=heads, distillation_token=True, drop_path=0.1, dtype=dtype)
    config.student.model = dict(name="models.vision.vit.vit", kwargs=student)
    # Random resized crops are made where the images are decoded.
    augment = ("flip", dict(name="rand_augment", num_ops=2, magnitude=9.0), "random_erasing", "mixup_or_cutmix")
    adam = dict(name="adamw", learning_rate=1e-3, weight_decay=0.05, decay_pattern="kernel$", warmup=5 / EPOCHS)
    config.train = training(batch_size=1024, epochs=float(EPOCHS), repeats=3, augment=augment, optimizer=adam)
    step = dict(learning_rate=0.1, weight_decay=1e-4, schedule="step", boundaries=(0.3, 0.6, 0.9))
    config.teacher.train = training(batch_size=256, epochs=100.0, augment=("flip",), optimizer=step)
    token = features("student", ("head_distillation",)), ("teacher.logits",)
    config.terms = ConfigDict(
        {
            "ce": term(CE, ("student.logits",), ("batch.target",), weight=0.5, kwargs={"smoothing": 0.1}),
            "token": term("losses.response_hard.hard_label_loss", *token, weight=0.5),
        }
    )
    config.scheme = ConfigDict(part("schemes.attention.build", average=0.99996))
    config.mesh.student_rules = config.mesh.teacher_rules = ((r"kernel", "fsdp"),)
    config.workers = 0 if "synthetic" in variant.flags else 8
    config.log_every, config.eval_every, config.eval_batch_size = 100, 5000, 512
    few = dict(validation=0.0, limit=512, eval_limit=128, image_size=64)
    return finish(config, variant, tiny=dict(data=few, workers=0 if "synthetic" in variant.flags else 2))
