"""Networks of speech: log-mel energies, transcription with CTC, Whisper, speech or none."""
