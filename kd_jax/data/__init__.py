"""Data: sources and their splits, order as a pure function of the step, batches on devices, augmentation."""
