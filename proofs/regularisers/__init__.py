"""R1-R7: what regularisers can and cannot do."""
