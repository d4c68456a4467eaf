"""Which variable gets what: selection, rules, perturbation. Private."""
