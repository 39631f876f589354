"""Charts as inline SVG, made by pure functions: figures in, a `Chart` with its text and its table out."""
