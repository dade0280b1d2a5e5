from hypothesis import settings

settings.register_profile("fuzz", deadline=None, print_blob=True)  # `make fuzz`: a busy machine is no failure
