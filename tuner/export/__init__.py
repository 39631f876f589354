"""From a confirmed trial to what people deploy: Helm values, manifest, launch command."""
