"""Small generative models that are trained from data alone, to be measured where no model can be downloaded."""
