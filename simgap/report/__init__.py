"""Tables, figures and text: what a person reads. Nothing is computed here that the rooms below did not compute."""
