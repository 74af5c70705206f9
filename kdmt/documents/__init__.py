"""Documents: text, HTML and JSONL that are split into sentences for translation and joined again."""
