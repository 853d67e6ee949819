"""opsin."""
