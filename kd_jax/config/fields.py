"""The fields of a run and their defaults. A file in configs/ starts from `base()` and changes what it needs.

Every default is here: the code reads fields and never invents one. Any field is overridden on the command line, as in
--config.terms.kd.kwargs.temperature=2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from kd_jax.config import effects
from kd_jax.config.model_folders import check_folders, with_folders
from kd_jax.config.terms import part, whole_terms
from kd_jax.core import optimizers
from kd_jax.core.optimizers import with_defaults
from kd_jax.data import load
from kd_jax.data.load import DEFAULTS as DATA
from kd_jax.measure import choose
from kd_jax.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, check_numbers

# Where the numbers below must lie: those of a training, of a teacher, of a run. Any other must be finite.
TRAINING = {
    **dict.fromkeys(("batch_size", "accumulate", "repeats"), COUNT),
    **dict.fromkeys(("epochs", "steps"), NOT_NEGATIVE),
    "labelled_share": SHARE,
    "optimizer": optimizers.RANGES,
}
TEACHER = {
    "min_accuracy": SHARE,
    "seed": NOT_NEGATIVE,
    "data": load.RANGES,
    "cache": {"temperature": POSITIVE, **dict.fromkeys(("k", "views"), NOT_NEGATIVE)},
    "train": TRAINING,
}
RUN = {
    **dict.fromkeys(("log_every", "eval_every", "eval_batch_size", "steps_per_dispatch"), COUNT),
    **dict.fromkeys(("seed", "view_seed", "keep", "workers", "examples"), NOT_NEGATIVE),
    "student": {"layers": NOT_NEGATIVE},
    "data": load.RANGES,
    "teacher": TEACHER,
    "train": TRAINING,
}


def training(**changes) -> ConfigDict:
    """Returns the fields that say how a network is trained: length, batch, view of the data, optimizer."""
    config = ConfigDict()
    config.batch_size = 64
    config.accumulate = 1  # microbatches whose gradients add up to that of the batch: the memory of one
    config.epochs = 0.0  # of the training split (unlabelled examples included); or
    config.steps = 0  # steps; exactly one of the two is not 0
    config.repeats = 1  # how often a batch has each of its examples, each time augmented anew
    config.labelled_share = 0.5  # of a batch when some examples have no label; the rest is from the transfer set
    config.augment = ()  # operations of data/image_ops.py and mixing.py, in order
    config.views = ConfigDict()  # further pictures of each example: name -> operations; () is the clean image
    config.optimizer = ConfigDict(
        dict(
            name="sgd",  # any optimizer of optax
            learning_rate=0.05,
            kwargs={},  # further arguments of optax's function; sgd's momentum is 0.9 unless it is given here
            # Added to the gradient, as torch.optim.SGD and Adam do; decoupled where optax's optimizer decays weights
            # itself (adamw, lion, lamb, ...): it is their weight_decay then, unless kwargs give one.
            weight_decay=5e-4,
            decay_pattern=".*",  # parameters whose path matches are decayed
            trained=".*",  # parameters whose path matches learn; "student/head/" leaves the rest as it is
            clip_norm=0.0,  # 0 = no clipping
            schedule="cosine",  # constant | cosine | linear | step
            warmup=0.0,  # fraction of the run
            boundaries=(0.625, 0.75, 0.875),  # of "step", as fractions of the run: 150, 180 and 210 of 240 epochs
            decay=0.1,
        ),
    )
    config.update(changes)
    return config


def teacher_fields(name: str = "", data: Mapping[str, Any] | None = None, **changes: Any) -> ConfigDict:
    """Returns the fields of a frozen network that is loaded, or trained on labels before the student starts.

    `name` is that of its model, `data` are the fields of config.data that differ while it is trained.
    """
    config = ConfigDict(
        dict(
            model=dict(name=name, kwargs={}),
            # A published language model, as a folder that transformers writes: its network, its weights, its tokens.
            path="",
            inputs=("batch.image",),  # what it reads: paths into the prepared batch or config.extra
            # What it is shown of a picture: like, or scale, mean and std; size and crop (core/role_preparation.py). {}:
            # as the data are normalised; what a pretrained network says; the raw arrays where it is handed over.
            preparation={},
            # Where its training starts, instead of at random: an export, as a path with a "/" for a name
            # (runs/a/student/export/last/student), or a function (model, key, **kwargs) -> (params, stats), such as
            # models.language.pretrained.load. With train.steps=0 and train.epochs=0 it teaches as it is loaded.
            initial=part(),
            checkpoint="",  # an export (.../export/last/student) to load; "" trains one, once, into
            workdir="",  # this folder; "" = <workdir>/teacher. Runs that share it share the teacher
            use="last",  # last | best (by validation) of the trained teacher
            # Divide its logits by the temperature of least NLL on validation before it teaches: one that is too sure
            # harms (Guo et al. 2017, arXiv 1706.04599). results.json has it as models.teacher.temperature.
            calibrate=False,
            min_accuracy=0.0,  # on the validation split; below it the run ends before the student starts
            # Of the teacher's training: config.seed repeats the student against one teacher. Where teacher and student
            # are one architecture on the same labels, give another seed, or the baseline is the teacher again.
            seed=0,
            # Fields of config.data that differ while it is trained, None = as there: it has all labels, and right ones.
            data={**{k: placeholder(type(v)) for k, v in DATA.items()}, "labels": 0, "label_noise": 0.0},
            dtype="",  # parameters of the frozen teacher: bfloat16, int8 (weights alone); "" = as trained
            view="same",  # same | clean: what the teacher sees while the student sees an augmented example
            # eval | train: with "train" BatchNorm normalises what it teaches by the batch, as mdistiller's OFD does.
            mode="eval",
            # How it is trained, and the baseline, on the terms of the task: a scheme such as schemes.experience.ppo;
            # "" = schemes.offline.build.
            scheme=part(),
            cache=dict(
                directory="",  # of the teacher's answers, "auto" = beside the teacher; "" runs it in every step
                k=0,  # 0 = all logits, else the k largest log-probabilities and the sum of the others
                dtype="float32",  # float32 | bfloat16 | float16 | uint8 (with an offset and a step a row)
                temperature=1.0,  # of the k largest: that of the loss, as losses.response.topk_kd_loss explains
                features=(),  # taps that are kept beside those that the terms read
                views=0,  # of each example, which come back in turn; 0 = as many as the run shows
            ),
            train=training(),
        ),
    )
    config.data.update(data or {})
    config.update(changes)
    return config


def base() -> ConfigDict:
    config = ConfigDict()
    config.title = ""
    # What a paper reports of this very recipe, {"student", "baseline", "teacher": test accuracy in %}; the verdict sets
    # the run beside it as long as no field of the recipe was changed (kd_jax/config/expected.py).
    config.published = ConfigDict(dict(scores={}, step="", source="", recipe={}))
    config.seed = 0
    config.view_seed = placeholder(int)  # of the order of the data and their augmentation; None = seed
    config.scheme = ConfigDict(part("schemes.offline.build"))
    config.data = ConfigDict(DATA, convert_dict=False)
    # What is learned and how it is scored: tasks.classify.task, tasks.tokens.task, tasks.multilabel.task,
    # tasks.regress.task or my_package.file:task; "" is that of the data, tokens where every token has a label.
    config.task = ConfigDict(part())
    config.splits = ConfigDict(part())  # a function (Splits, **kwargs) -> {name: Source}: further data for the scheme
    config.extra = ConfigDict(part())  # a function (Splits, **kwargs) -> arrays that every network may read: a graph
    config.prepare = ConfigDict(part())  # a function (batch, train, **kwargs) -> further entries of a prepared batch
    # A function (roles, sources, **kwargs) -> Scheme.summary, whose sections every training of the run contributes to.
    config.summary = ConfigDict(part())
    config.student = ConfigDict(
        dict(
            model=dict(name="models.vision.cifar_resnet.resnet20", kwargs={}),
            path="",  # as that of a teacher; "" with `layers`=N: a student made of N layers of teacher.path
            layers=0,
            inputs=("batch.image",),
            preparation={},  # as that of a teacher
            # Gradient checkpointing: policy "nothing_saveable" or "dots_saveable" computes again on the way back what
            # lies inside the modules whose path matches ("" = the whole network as one piece); "" keeps everything.
            remat=dict(policy="", modules="block[0-9]+$"),
            initial=part(),  # as that of a teacher; a function that takes `teacher` gets its (params, stats) as well
        )
    )
    config.teacher = teacher_fields("models.vision.cifar_resnet.resnet56")  # model.name = "": there is none
    config.teachers = ConfigDict()  # further ones by name, each with the fields of config.teacher
    config.roles = ConfigDict()  # further networks that the scheme trains: name -> kd_jax.config.fields.role(...)
    config.train = training()
    config.optimizers = ConfigDict()  # group -> optimizer, where it is not config.train.optimizer
    config.terms = ConfigDict()
    config.members = "auto"  # how runs of a sweep share a program: vmap | map | unroll | auto: measured, if it is long
    config.baseline = True  # also train the student without the teacher, equally long
    config.mesh = ConfigDict(
        dict(
            axes=dict(data=-1, fsdp=1, model=1),
            student_rules=(),  # ((path regex, PartitionSpec as a tuple | axis name for the largest dimension), ...)
            teacher_rules=(),
        ),
    )
    config.distributed = ConfigDict(
        dict(enabled=False, coordinator_address="", num_processes=-1, process_id=-1, heartbeat_timeout_seconds=100)
    )
    config.log_every = 50
    # Steps between two evaluations on the validation split, each saved as a checkpoint; None = a tenth of a training.
    config.eval_every = placeholder(int)
    config.eval_batch_size = 256
    config.steps_per_dispatch = 1  # steps in one program over data on the device; best a divisor of eval_every
    config.keep = 2  # checkpoints kept beside the best one
    config.workers = 0  # processes that decode streamed data
    config.profile = (0, 0)  # first and last step of a trace for TensorBoard or Perfetto, in <workdir>/<name>/profile
    config.tracker = ""  # wandb | trackio | mlflow: metrics go there too, as its environment variables say
    config.compilation_cache = ""  # folder of compiled programs; "" = where $JAX_COMPILATION_CACHE_DIR says, if it does
    # A function (directory, config, **kwargs) that writes further files of a finished run: export.published.write.
    config.export = ConfigDict(part())
    config.report = True  # measure FLOPs and latency and write report.html; False leaves scores in results.json
    config.examples = 6  # test images shown in the report
    # What is measured of teacher, baseline and student beside their scores (docs/measure.md), by name; with a report
    # what costs next to nothing is measured anyway, and ("none",) leaves that out. On the command line: corruptions,cka
    config.measure = ()
    config.measure_kwargs = ConfigDict(choose.defaults())  # {measure: its options}
    return config


def role(
    name: str,
    *,
    inputs: Sequence[str] = ("batch.image",),
    group: str = "",
    initial: str = "",
    preparation: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> dict[str, Any]:
    """Returns the fields of a network for config.roles; `name` and kwargs make its model.

    By default its group has the network's own name. It starts as a copy of the role `initial`, where one is named.
    `preparation` is as that of a teacher.
    """
    model, shown = {"name": name, "kwargs": kwargs}, dict(preparation or {})
    return {"model": model, "inputs": tuple(inputs), "preparation": shown, "group": group, "initial": initial}


def small_digits() -> ConfigDict:
    """Returns the config of the task on which the schemes are shown: seconds on one core.

    scikit-learn's digits, the student with 100 labels and 1,157 images without, the teacher with all labels.
    """
    config = base()
    config.student.model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(4, 8)))
    config.teacher.model = dict(name="models.vision.cnn.cnn", kwargs=dict(widths=(32, 64), hidden=64))
    config.data.update(dict(name="digits", validation=0.125, labels=100))
    shift = (dict(name="pad_crop", padding=1),)
    config.train = training(batch_size=64, steps=800, augment=shift, optimizer=dict(learning_rate=0.1))
    config.teacher.train = training(batch_size=64, steps=600, augment=shift, optimizer=dict(learning_rate=0.05))
    config.log_every, config.eval_every = 20, 200
    return config


def settled(config: ConfigDict) -> ConfigDict:
    """Returns a copy with the defaults that depend on other fields written out: of optimizers and of terms.

    It is what a run writes down. Folders of published models are written out into what reads them
    (config/model_folders.py). Raises ValueError for a field that nothing reads, for an optimizer that optax lacks,
    for a term without `fn`, and for a number out of range or a field of an optimizer that another keeps from acting.
    """
    config, defaults = config.copy_and_resolve_references(), training().optimizer
    with_folders(config)
    several = {"teachers": dict.fromkeys(config.teachers, TEACHER)}
    several["optimizers"] = dict.fromkeys(config.optimizers, optimizers.RANGES)
    check_numbers("", config, {**RUN, **several})
    effects.check_names("config", config, base())
    choose.check(config.measure, config.measure_kwargs)
    for name, teacher in config.teachers.items():
        effects.check_names(f"config.teachers.{name}", teacher, teacher_fields())
    for group, fields in config.optimizers.items():
        effects.check_names(f"config.optimizers.{group}", fields, defaults)
    for where, fields in _optimizers(config).items():
        effects.check_optimizer(where, fields, defaults)
    with config.unlocked():
        for fields in (config, config.teacher, *config.teachers.values()):
            fields.train.optimizer = ConfigDict(with_defaults(fields.train.optimizer))
        config.optimizers = ConfigDict({group: with_defaults(fields) for group, fields in config.optimizers.items()})
        config.terms = whole_terms(config.terms)
    return config


def _optimizers(config: ConfigDict) -> dict[str, Mapping[str, Any]]:
    """The optimizers of a config by where they stand."""
    named = {"config": config, **{f"config.{name}": teacher for name, teacher in teachers_of(config).items()}}
    trained = {f"{where}.train.optimizer": fields.train.optimizer for where, fields in named.items()}
    return trained | {f"config.optimizers.{group}": fields for group, fields in config.optimizers.items()}


def check_effects(config: ConfigDict, handed_over: Collection[str] = ()) -> None:
    """Raises ValueError for a field that another field keeps from acting.

    The caller of the run has the parameters of the teachers `handed_over`.
    """
    check_folders(config)
    effects.tell_parts(config)
    effects.check_student(config, base())
    for name, teacher in {"teacher": config.teacher, **config.teachers}.items():
        effects.check_teacher(name, teacher, teacher_fields(), name in handed_over)


def own_data(config: ConfigDict, teacher: ConfigDict) -> dict[str, Any]:
    """Returns config.data with the fields that the teacher's own `data` changes: what it learns from."""
    return {**config.data, **{k: v for k, v in teacher.data.items() if v is not None}}


def teachers_of(config: ConfigDict) -> dict[str, ConfigDict]:
    """Returns the teachers by role: "teacher" unless its model has no name, and those of config.teachers."""
    return {**({"teacher": config.teacher} if config.teacher.model.name else {}), **config.teachers}
