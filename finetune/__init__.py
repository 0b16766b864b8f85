"""Fine-tuning: labelled data and a base model in, a run folder with a checkpoint out."""
