"""Language models and their neurons: the only place that knows Transformers."""
