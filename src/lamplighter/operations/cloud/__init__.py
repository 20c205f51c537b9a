"""What a person does with the account: plan, build, look, bake, prove, take down. Terraform builds; AWS itself is asked through `providers.aws`.

Not responsible for the life of single machines (the keeper and its provider), nor for showing anything (`cli.cloud`).
"""
