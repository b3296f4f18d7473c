"""The report a radiologist would write about a phantom, in English and in Chinese."""

from types import MappingProxyType

from training.phantom.findings import Findings, Side

#: Languages a phantom report can be written in.
LANGUAGES = ("en", "zh")

_SIDE = MappingProxyType(
    {
        "en": {Side.LEFT: "left", Side.RIGHT: "right"},
        "zh": {Side.LEFT: "左", Side.RIGHT: "右"},
    }
)


def write_report(findings: Findings, language: str) -> str:
    """Write the report in one line, with the headings that split it into findings and impression.

    Parameters
    ----------
    findings
        The truth to report; every finding is stated, the absent ones too.
    language
        One of `LANGUAGES`.
    """
    if language == "zh":
        return f"检查所见：{''.join(_seen_zh(findings))} 印象：{''.join(_meaning_zh(findings))}"
    return f"FINDINGS: {' '.join(_seen_en(findings))} IMPRESSION: {' '.join(_meaning_en(findings))}"


def _seen_en(findings: Findings) -> list[str]:
    side = _SIDE["en"]
    effusion = {
        Side.NONE: "There is no pleural effusion.",
        Side.BILATERAL: "There are bilateral pleural effusions.",
    }
    return [
        "The heart is enlarged." if findings.cardiomegaly else "The heart size is normal.",
        effusion.get(findings.pleural_effusion) or f"There is a {side[findings.pleural_effusion]} pleural effusion.",
        "There is no pneumothorax."
        if findings.pneumothorax is Side.NONE
        else f"There is a {side[findings.pneumothorax]} pneumothorax.",
        "There is no consolidation."
        if findings.consolidation is Side.NONE
        else f"There is consolidation in the {side[findings.consolidation]} lung.",
        "There is no nodule."
        if findings.nodule is Side.NONE
        else f"There is a nodule in the {side[findings.nodule]} lung.",
        "A pacemaker is in place." if findings.pacemaker else "There is no pacemaker.",
    ]


def _meaning_en(findings: Findings) -> list[str]:
    sides = {**_SIDE["en"], Side.BILATERAL: "bilateral"}
    meaning = ["Cardiomegaly."] if findings.cardiomegaly else []
    if findings.pleural_effusion is Side.BILATERAL:
        meaning.append("Bilateral pleural effusions.")
    elif findings.pleural_effusion is not Side.NONE:
        meaning.append(f"{sides[findings.pleural_effusion].capitalize()} pleural effusion.")
    if findings.pneumothorax is not Side.NONE:
        meaning.append(f"{sides[findings.pneumothorax].capitalize()} pneumothorax.")
    if findings.consolidation is not Side.NONE:
        meaning.append(f"{sides[findings.consolidation].capitalize()} lung consolidation.")
    if findings.nodule is not Side.NONE:
        meaning.append(f"{sides[findings.nodule].capitalize()} lung nodule.")
    return meaning or ["No acute abnormality."]


def _seen_zh(findings: Findings) -> list[str]:
    side = _SIDE["zh"]
    effusion = {Side.NONE: "未见胸腔积液。", Side.BILATERAL: "双侧胸腔积液。"}
    return [
        "心影增大。" if findings.cardiomegaly else "心影大小正常。",
        effusion.get(findings.pleural_effusion) or f"{side[findings.pleural_effusion]}侧胸腔积液。",
        "未见气胸。" if findings.pneumothorax is Side.NONE else f"{side[findings.pneumothorax]}侧气胸。",
        "双肺未见实变。" if findings.consolidation is Side.NONE else f"{side[findings.consolidation]}肺可见实变影。",
        "双肺未见结节。" if findings.nodule is Side.NONE else f"{side[findings.nodule]}肺可见结节影。",
        "可见心脏起搏器。" if findings.pacemaker else "未见心脏起搏器。",
    ]


def _meaning_zh(findings: Findings) -> list[str]:
    side = _SIDE["zh"]
    meaning = ["心影增大。"] if findings.cardiomegaly else []
    if findings.pleural_effusion is not Side.NONE:
        effusion_side = {**side, Side.BILATERAL: "双"}[findings.pleural_effusion]
        meaning.append(f"{effusion_side}侧胸腔积液。")
    if findings.pneumothorax is not Side.NONE:
        meaning.append(f"{side[findings.pneumothorax]}侧气胸。")
    if findings.consolidation is not Side.NONE:
        meaning.append(f"{side[findings.consolidation]}肺实变。")
    if findings.nodule is not Side.NONE:
        meaning.append(f"{side[findings.nodule]}肺结节。")
    return meaning or ["未见急性异常。"]
