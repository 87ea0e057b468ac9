"""Where frames come from: detectors' streams and files, all behind `processing.frames.Source`."""
