"""The Hugging Face hub: where sources come from and where outputs go. huggingface_hub is loaded when it is needed."""
