"""The control panel: `framesieve panel`. A model without Qt (`places`, `values`, `model`), numbers for the plots
(`curves`), and one small widget per file. Qt, Taurus and pyqtgraph are imported by the widgets only."""
