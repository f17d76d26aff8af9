"""A patient and consistent teacher on ImageNet-1k; configs/transfer_sets.py:function_matching has the digits.

python launch.py --config=configs/imagenet_function_matching.py[:EPOCHS,bfloat16,synthetic,tiny]

EPOCHS     1200 (default, "a good middle-ground" to the authors), 300 or 9600
bfloat16   both networks compute in bfloat16 (parameters, BatchNorm averages, logits and losses stay float32)
synthetic  made images in place of ImageNet, on any machine: the recipe runs, its numbers mean nothing
tiny       a few steps on a few small images: does everything work?

Beyer, Zhai, Royer, Markeeva, Anil, Kolesnikov, "Knowledge distillation: A good teacher is patient and consistent",
2021, arXiv 2106.05237. Read from the authors' code (google-research/big_vision @0127fb6,
configs/proj/distill/bit_i1k.py, optax.py, utils.py): teacher and student see the same mixed crop; KL at T 1 and no
labels; random resized crops of 224 and flips, mixup with w uniform in every step; batch 4096, Adam at 0.03, warm-up of
5000 steps, cosine to 0, gradient norm 1, decay of kernels 3e-4 beside the learning rate (0.01 times it here); 98 % of
the training images. Their README: student 82.8 at 224 (that of 9600 epochs), teacher 83.0.

Deviations, of which the first is large: theirs are BiT ResNets (activations first, GroupNorm, standardised weights),
R152x2 and R50x1, the teacher pre-trained on ImageNet-21k. kd_jax has torchvision's layout with BatchNorm: here
ResNet-50, and a ResNet-152 of twice the width with as many blocks as theirs. A teacher that is not loaded
(--config.teacher.checkpoint=DIR, an export) is trained here on ImageNet-1k alone, by the recipe of
configs/imagenet_resnet.py, and should be weaker. Adam at 0.03 is theirs for GroupNorm; for BatchNorm
--config.train.optimizer.learning_rate is the first number to doubt. Adam's first moment is float32. Data: as
configs/imagenet_resnet.py.
Cost: 300 epochs took the authors 15 hours on a TPU v3-32; 1200 epochs are 368,000 steps of 4096 images through both
networks. Not run by us at full size. There is no baseline: --config.baseline=True trains one on mixed labels.
"""

from ml_collections import ConfigDict

from kd_jax.config import base, finish, kd_term, on_images, parse, training

BATCH = 4096
EPOCHS = (1200, 300, 9600)
STEPS_AN_EPOCH = round(0.98 * 1_281_167) // BATCH


def get_config(arg: str = "") -> ConfigDict:
    config = base()
    variant = parse(arg, variants=tuple(map(str, EPOCHS)), flags=("bfloat16", "synthetic"))
    epochs, dtype = int(variant.variant), "bfloat16" if "bfloat16" in variant.flags else "float32"
    on_images(config, variant, f"A patient teacher, {epochs} epochs: ResNet-152 x2 to ResNet-50", "imagenet2012")
    config.student.model = dict(name="models.vision.resnet.resnet50", kwargs=dict(dtype=dtype))
    wide = dict(blocks=(3, 8, 36, 3), widths=(128, 256, 512, 1024), stem_width=128, dtype=dtype)
    config.teacher.model = dict(name="models.vision.resnet.resnet50", kwargs=wide)
    adam = dict(
        name="adamw",
        learning_rate=0.03,
        weight_decay=3e-4 / 0.03,  # optax multiplies it by the learning rate, they do not
        decay_pattern="kernel$",
        clip_norm=1.0,
        schedule="cosine",
        warmup=5000 / (epochs * STEPS_AN_EPOCH),
    )
    # Random resized crops are made where the images are decoded. All weights between two images are alike likely.
    augment = ("flip", dict(name="mixup", alpha=1.0))
    config.train = training(batch_size=BATCH, epochs=float(epochs), augment=augment, optimizer=adam)
    step = dict(learning_rate=0.1, weight_decay=1e-4, schedule="step", boundaries=(0.3, 0.6, 0.9))
    config.teacher.train = training(batch_size=256, epochs=100.0, augment=("flip",), optimizer=step)
    config.terms = ConfigDict({"kd": kd_term(1.0, temperature=1.0)})
    config.baseline = False
    config.mesh.student_rules = config.mesh.teacher_rules = ((r"kernel", "fsdp"),)
    config.workers = 0 if "synthetic" in variant.flags else 8
    config.log_every, config.eval_every, config.eval_batch_size = 100, 5000, 512
    few = dict(validation=0.0, limit=512, eval_limit=128, image_size=32)
    return finish(config, variant, tiny=dict(data=few, workers=0 if "synthetic" in variant.flags else 2))
