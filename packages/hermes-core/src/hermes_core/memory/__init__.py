"""KV memory beyond the engines' own: tiers that keep prefixes, and what it takes to get them back."""
