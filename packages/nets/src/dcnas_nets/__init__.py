"""UNet denoisers, digit classifiers, DC-Net joint models, MAC counting."""
