"""Pictures of a dataset: the contact sheet, rejected photographs, one sample beside the photograph it was cut from."""
