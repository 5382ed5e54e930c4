"""f, g: pretrained backbones from transformers, with their roles, seams and heads named."""
