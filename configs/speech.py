"""Speech: transcription with CTC of sentences that espeak-ng and flite speak (synthetic: no person), at 8 kHz.

apt-get install espeak-ng flite && pip install jiwer
python launch.py --config=configs/speech.py[:VARIANT,tiny]

The teacher, a Conformer of 318,000 parameters, has the transcripts of 1,500 sentences; the student, convolutions of
21,000, those of 300 and the other recordings without. Voices and sentences of the test are in no training. Log-mel
energies are computed on the device. --config.data.name=data.transcripts.folder reads recordings of your own.

frame       the teacher's distribution at every frame (Senior, Sak, de Chaumont Quitry, Sainath, Rao, "Acoustic
            Modelling with CD-CTC-SMBR LSTM RNNs", ASRU 2015; Hinton, Vinyals, Dean 2015, arXiv 1503.02531); default
blank_free  only at frames where the teacher hears a symbol (Hilmes, Rossenbach, Schlueter 2025, arXiv 2506.01503)
sequence    CTC on the teacher's 4 best transcripts, weighted by their probabilities (Takashima, Li, Kawai, ICASSP 2018)
language    which of five languages is a telephone prompt in? Recordings of people: apt-get install
            asterisk-core-sounds-{en,es,fr,it,ru}-wav; the teacher's answers (Hinton et al.), 50 labels; a prompt is in
            one split in all languages, but four voices speak all: what is learned is voices as much as languages
commands    which word of a telephone menu is said? Learned from synthetic voices, tested on a person's prompts (apt-get
            install asterisk-core-sounds-en-wav); the teacher's answers to words without a label
whisper     Distil-Whisper (Gandhi, von Platen, Rush 2023, arXiv 2311.00430): the first and the last layer of a
            Whisper's decoder on its frozen encoder, cross-entropy on its transcripts, but for those with more than 10 %
            of the words wrong, and KL; --config.teacher.path=FOLDER is a published one, else a small one is trained
            on the same sentences
vad         speech or none, every 32 ms of clips with noise: Silero's detector (pip install --no-deps silero-vad; pip
            install onnxruntime; MIT) answers once, on the host, and teaches 2,200 parameters; 40 clips have labels;
            half of the speech are the prompts, half synthetic
"""

from ml_collections import ConfigDict

from kd_jax.config import base, compose, finish, parse, part, response, term, training

VARIANTS = ("frame", "blank_free", "sequence", "language", "commands", "whisper", "vad")
PAIR = (("student.logits",), ("teacher.logits",))
FRAMES = {"frames": "batch.frames"}
TERMS = {
    "frame": term("losses.response.kd_loss", *PAIR, kwargs=dict(temperature=1.0), where="batch.frames"),
    "blank_free": term(
        "tasks.transcribe_terms.spoken_frames_loss", *PAIR, kwargs=dict(temperature=1.0, reach=0), options=FRAMES
    ),
    "sequence": term("tasks.transcribe_terms.hypotheses_loss", *PAIR, kwargs=dict(number=4, length=32), options=FRAMES),
}
INPUTS = ("batch.mel", "batch.frames")
# Recordings into one class each: data, widths of the student, steps of teacher and student, data of a tiny run.
CLASSIFIED = {
    "language": dict(
        data=dict(name="kd_jax.data.speech:prompts", labels=50),
        widths=(8, 12, 12),
        steps=(300, 500),
        few=dict(labels=50),
    ),
    "commands": dict(
        data=dict(name="kd_jax.data.commands:commands", utterances=(2320, 580), labels=174),
        widths=(12, 24, 24),
        steps=(1000, 1000),
        few=dict(utterances=(116, 58), labels=58),
    ),
}


def adam(steps: int, learning_rate: float) -> ConfigDict:
    optimizer = dict(name="adamw", learning_rate=learning_rate, weight_decay=1e-2, clip_norm=1.0, warmup=0.1)
    return training(batch_size=32, steps=steps, optimizer=optimizer)


def get_config(arg: str = "") -> ConfigDict:
    variant = parse(arg, variants=VARIANTS)
    config = base()
    if variant.variant in ("language", "commands"):
        settings = CLASSIFIED[variant.variant]
        classification(config, settings)
        return finish(config, variant, tiny=dict(data=settings["few"]))
    if variant.variant == "vad":
        vad(config)
        return finish(config, variant, tiny=dict(data=dict(utterances=(32, 8, 8), labels=16), eval_batch_size=8))
    if variant.variant == "whisper":
        return finish(config, variant, tiny=whisper(config))
    transcription(config, variant.variant)
    few = dict(data=dict(utterances=(32, 8, 8), labels=16), eval_batch_size=8)
    small = {role: dict(model=dict(kwargs=dict(width=16, depth=1))) for role in ("teacher", "student")}
    return finish(config, variant, tiny=few | small)


def classification(config: ConfigDict, settings: dict) -> None:
    """Sets the recognition of languages, or of words."""
    config.data.update(settings["data"])
    config.task = ConfigDict(part("tasks.classify.task", confusion=True))
    config.prepare = ConfigDict(part("models.speech.log_mel.features", stride=1))
    config.teacher.model = dict(name="models.series.cnn.cnn", kwargs=dict(widths=(48, 96, 96), dropout=0.2))
    config.student.model = dict(name="models.series.cnn.cnn", kwargs=dict(widths=settings["widths"]))
    config.student.inputs = config.teacher.inputs = ("batch.mel",)
    teacher, student = settings["steps"]
    config.teacher.train, config.train = adam(teacher, 0.003), adam(student, 0.01)
    config.teacher.data.labels, config.teacher.cache.directory = 0, "auto"
    config.terms = ConfigDict(compose("response", response={"temperature": 2.0}))
    config.log_every, config.eval_every = 50, 250


def transcription(config: ConfigDict, method: str) -> None:
    """Sets the variants of transcription."""
    data = dict(name="kd_jax.data.spoken:sentences", utterances=(1500, 200, 400), samples=14400, length=32, labels=300)
    config.data.update(data)
    config.task = ConfigDict(part("tasks.transcribe.task"))
    config.prepare = ConfigDict(part("models.speech.log_mel.features"))
    config.student.model = dict(name="models.speech.conformer.convolutional", kwargs=dict(width=32))
    config.teacher.model = dict(name="models.speech.conformer.conformer", kwargs=dict(width=80, dropout=0.1))
    config.student.inputs = config.teacher.inputs = INPUTS
    config.teacher.train, config.train = adam(500, 0.002), adam(400, 0.004)
    config.teacher.data.labels, config.teacher.cache.directory = 0, "auto"
    config.terms = ConfigDict({"ctc": {"weight": 1.0}, "teacher": TERMS[method]})
    config.log_every, config.eval_every, config.eval_batch_size = 50, 200, 100


def vad(config: ConfigDict) -> None:
    """Sets the detection of speech."""
    data = dict(name="kd_jax.data.voice_activity:clips", utterances=(400, 60, 120), samples=16384, labels=40)
    config.data.update(data)
    config.task = ConfigDict(part("tasks.multilabel.task"))
    mel = dict(window=256, hop=256, bands=24, stride=1)
    config.prepare = ConfigDict(part("models.speech.log_mel.features", **mel))
    config.teacher.model = dict(name="models.speech.voice_activity.silero", kwargs={})
    config.teacher.cache.directory = "auto"
    config.student.model = dict(name="models.speech.voice_activity.windows", kwargs={})
    config.student.inputs = ("batch.mel",)
    config.train = adam(400, 0.01)
    soft = term("tasks.multilabel.soft_labels_loss", *PAIR)
    config.terms = ConfigDict({"bce": {"weight": 1.0}, "teacher": soft})
    config.log_every, config.eval_every = 50, 200


def whisper(config: ConfigDict) -> dict:
    """Sets Distil-Whisper; returns what is smaller in a tiny run."""
    data = dict(name="kd_jax.data.spoken_tokens:sentences", utterances=(600, 100, 200), samples=28800, length=36)
    config.data.update(dict(tokenizer="", **data))
    sizes = dict(width=64, encoder_depth=2, heads=4, source_positions=90, target_positions=48)
    config.teacher.model = dict(name="models.speech.whisper.whisper", kwargs=dict(**sizes, decoder_depth=4))
    config.student.model = dict(name="models.speech.whisper.whisper", kwargs=dict(**sizes, decoder_depth=2))
    config.student.initial = ConfigDict(part("models.speech.whisper_folder.layers"))
    config.student.inputs = config.teacher.inputs = ("batch.source", "batch.tokens", "batch.source_mask")
    config.teacher.train, config.train = adam(800, 0.002), adam(150, 0.001)
    config.train.optimizer.trained = "/decoder/"
    config.terms = ConfigDict(response(1.0, temperature=2.0, ce=0.8, where="batch.labelled"))
    decoding = "models.speech.whisper_decoding.decoding"
    options = dict(prompt=0, beams=0, word_errors=0.1, batch=50, decoding=decoding)
    config.scheme = ConfigDict(part("schemes.sequence_level.build", **options))
    words = dict(prompt=0, count=200, decoding=decoding, unit="word", answer="recording")
    config.summary = ConfigDict(part("schemes.text_summary.error_rate", **words))
    config.log_every, config.eval_every, config.eval_batch_size = 50, 150, 50
    small = dict(width=16, encoder_depth=1)
    few = dict(
        data=dict(utterances=(32, 8, 8)), eval_batch_size=8, scheme=dict(kwargs=dict(word_errors=10.0, batch=16))
    )
    few |= dict(summary=dict(kwargs=dict(count=8, batch=8)), student=dict(model=dict(kwargs=small)))
    return few | dict(teacher=dict(model=dict(kwargs=small | dict(decoder_depth=3))))
