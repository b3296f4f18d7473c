"""Text that a model might write and that must not do anything: the injection corpus."""

#: Each is one paragraph; what a person should read of it comes second.
CORPUS = {
    "delimiters": ("a|b^c~d&e\\f", "a|b^c~d&e\\f"),
    "line_break_escape": ("clear.\\.br\\OBX|9", "clear.\\.br\\OBX|9"),
    "highlight_escape": ("\\H\\loud\\N\\ \\X0D\\ \\Z1\\", "\\H\\loud\\N\\ \\X0D\\ \\Z1\\"),
    "segment_after_carriage_return": (
        "clear.\rOBR|1||X||||||||||||||||||||||F",
        "clear.\nOBR|1||X||||||||||||||||||||||F",
    ),
    "message_after_line_feed": ("clear.\n\nMSH|^~\\&|EVIL", "clear.\n\nMSH|^~\\&|EVIL"),
    "carriage_return_line_feed": ("one\r\ntwo", "one\ntwo"),
    "mllp_frame_end": ("clear.\x1c\rMSH|^~\\&|EVIL\x0b", "clear.\nMSH|^~\\&|EVIL"),
    "nul_and_escape": ("a\x00b\x1b$)Cc\x7fd\x9be", "ab$)Ccde"),
    "tab": ("a\tb", "a b"),
    "bidirectional": ("no \u202eyes\u202c \u2066x\u2069 \u200fy", "no yes x y"),
    "zero_width": ("pneu\u200bmo\ufeffthorax", "pneumothorax"),
    "half_a_character": ("a\ud800b\udfffc", "abc"),
    "line_separators": ("a\u2028b\u2029c\x85d", "a\nb\nc\nd"),
    "decomposed": ("e\u0301", "\u00e9"),
    "beyond_the_basic_plane": ("𠮷 and 😀", "𠮷 and 😀"),
    "markup": ("<script>alert(1)</script> & 100 %", "<script>alert(1)</script> & 100 %"),
    "equals_and_quotes": ("a=b \"c\" 'd' ;--", "a=b \"c\" 'd' ;--"),
    "empty_quotes": ('""', '""'),
    "only_delimiters": ("|^~\\&", "|^~\\&"),
    "trailing_delimiters": ("clear^^^|||", "clear^^^|||"),
}
