"""Words that users know from Lightning's Trainer and from other training programs, and what they are here."""

from __future__ import annotations

FAMILIAR = {
    **dict.fromkeys(("max_epochs", "num_epochs", "n_epochs", "num_train_epochs"), "schedule.epochs"),
    **dict.fromkeys(("learning_rate", "base_lr", "max_lr"), "schedule.optimizer.lr"),
    **dict.fromkeys(("opt", "optim", "optimizer"), "schedule.optimizer.name"),
    **dict.fromkeys(("sched", "scheduler", "lr_scheduler"), "schedule.optimizer.schedule"),
    "wd": "schedule.optimizer.weight_decay",
    **dict.fromkeys(("warmup_epochs", "warmup_steps", "warmup_ratio"), "schedule.optimizer.warmup"),
    **dict.fromkeys(("bs", "train_batch_size", "per_device_train_batch_size"), "data.batch_size"),
    **dict.fromkeys(("workers", "num_worker"), "data.num_workers"),
    **dict.fromkeys(("dataset", "datamodule"), "data"),
    **dict.fromkeys(("data_dir", "data_path", "data_root", "dataset_path"), "data.root"),
    **dict.fromkeys(("arch", "architecture", "backbone", "network"), "model"),
    **dict.fromkeys(("gradient_clip_val", "max_grad_norm", "clip_grad", "grad_clip"), "train.clip_norm"),
    **dict.fromkeys(("accumulate_grad_batches", "gradient_accumulation_steps"), "train.accumulate"),
    **dict.fromkeys(("gpus", "num_gpus", "num_devices", "num_processes"), "trainer.devices"),
    "device": "trainer.accelerator",
    **dict.fromkeys(("default_root_dir", "output_dir", "out_dir"), "output"),
    **dict.fromkeys(("ckpt_path", "resume_from", "resume_from_checkpoint"), "resume"),
    **dict.fromkeys(("random_seed", "manual_seed", "random_state"), "seed"),
    **dict.fromkeys(("fast_dev_run", "dry_run"), "debug"),
}
# arguments of Lightning's Trainer that conf/trainer does not name, and hands on where they are added
ADDED = (
    *("max_steps", "min_epochs", "min_steps", "max_time", "limit_predict_batches", "overfit_batches"),
    *("val_check_interval", "check_val_every_n_epoch", "profiler", "detect_anomaly", "benchmark"),
    *("inference_mode", "enable_progress_bar", "model_registry", "reload_dataloaders_every_n_epochs"),
)
# those that a run sets itself
SET = (
    *("logger", "callbacks", "plugins", "enable_model_summary", "enable_autolog_hparams"),
    *("num_sanity_val_steps", "use_distributed_sampler", "enable_checkpointing"),
    *("gradient_clip_algorithm", "barebones"),
)
