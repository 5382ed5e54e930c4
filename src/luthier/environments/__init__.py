"""Where a policy acts: environments of gymnasium, what is shown of them, and experts that know how to act there."""
