"""Every flag of `antiphase probe`, written down: a flag that comes or goes is a change that users see."""

FLAGS = {
    "models", "--dtype", "--device", "--device-map", "--revision", "--adapter", "--trust-remote-code", "--prompts",
    "--prompt-column", "--num-prompts", "--prompt-template", "--system-prompt", "--no-chat-template",
    "--chat-template-kwargs", "--fold-system", "--continue-final", "--samples", "--max-new-tokens",
    "--temperature", "--top-p", "--seed", "--batch-size", "--rollouts", "--share-rollouts", "--allow-short",
    "--estimator", "--layers", "--projections", "--norm", "--target", "--targets-per-rollout", "--signal-temperature",
    "--alternatives", "--token-budget", "--min-tokens", "--num-resamples", "--out", "--resume", "--no-figures",
    "--no-report", "--quiet", "--unit", "--splitter", "--step-strength", "--min-steps", "--checkpoints",
    "--no-references", "--segment", "--engine", "--vllm-memory", "--end-token", "--think-tags",
    "--auto-seconds", "--base-url", "--served-model", "--concurrency", "--request-timeout", "--deadline",
    "--api-key-env",
}  # fmt: skip
