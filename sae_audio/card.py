"""card"""
def model_card(bundle) -> str:
    return "card\n"
