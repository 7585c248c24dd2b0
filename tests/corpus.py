"""Texts that tokenizers and detokenizers stumble over, the same for every test that needs some.

``texts()`` yields everything; ``prompts()`` is the part that reads like something a person would send.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterator

SENTENCES: dict[str, str] = {
    "english": "All human beings are born free and equal in dignity and rights, aren't they?",
    "german": "Alle Menschen sind frei und gleich an Würde und Rechten geboren; das heißt: auch Größe zählt nicht.",
    "french": "Tous les êtres humains naissent libres et égaux, c'est-à-dire « sans distinction » dès l'été 1948.",
    "polish": "Wszyscy ludzie rodzą się wolni i równi; zażółć gęślą jaźń.",
    "turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İstanbul, ılık.",
    "vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "yoruba": "Gbogbo ènìyàn ni a bí ní òmìnira; iyì àti ẹ̀tọ́ kọ̀ọ̀kan sì dọ́gba.",
    "greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "russian": "Все люди рождаются свободными и равными в своём достоинстве и правах, подъезд №5.",
    "ukrainian": "Всі люди народжуються вільними і рівними у своїй гідності та правах, п'ять їжаків.",
    "arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق، عام ١٩٤٨.",
    "persian": "تمام افراد بشر آزاد به دنیا می‌آیند و از لحاظ حیثیت و حقوق برابرند، سال ۱۳۲۷.",
    "urdu": "تمام انسان آزاد اور حقوق و عزت کے اعتبار سے برابر پیدا ہوئے ہیں۔",
    "hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. בְּרֵאשִׁית",
    "syriac": "ܟܠ ܒܪܢܫܐ ܒܪܝܠܗ ܚܐܪܐ ܘܒܪܒܪ ܓܘ ܐܝܩܪܐ",
    "thaana": "ހުރިހާ އިންސާނުން ވެސް އުފަންވަނީ މިނިވަންކަމުގައި",
    "nko": "ߡߊ߲߬ߛߓߊ߬ ߟߎ߬ ߓߍ߯ ߤߙߐ߬ߦߊ߬",
    "hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। वर्ष १९४८",
    "bengali": "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।",
    "punjabi": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ, ਸ਼ਾਨ ਅਤੇ ਹੱਕਾਂ ਦੇ ਪੱਖੋਂ ਜਨਮ ਤੋਂ ਹੀ ਆਜ਼ਾਦ ਹੈ।",
    "gujarati": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો જન્મથી સ્વતંત્ર અને સમાન હોય છે.",
    "tamil": "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.",
    "telugu": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "kannada": "ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.",
    "malayalam": "മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടും അന്തസ്സോടും കൂടി ജനിച്ചവരാണ്.",
    "sinhala": "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත.",
    "thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ พ.ศ. ๒๔๙๑",
    "lao": "ມະນຸດທຸກຄົນເກີດມາມີສິດເສລີພາບ ແລະ ສະເໝີໜ້າກັນ",
    "khmer": "មនុស្សទាំងអស់កើតមកមានសេរីភាព និងសមភាព",
    "burmese": "လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများ ဖြစ်သည်။",
    "tibetan": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་ཆེ་མཐོངས།",
    "georgian": "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "armenian": "Բոլոր մարդիկ ծնվում են ազատ ու հավասար՝ իրենց արժանապատվությամբ ու իրավունքներով։",
    "amharic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው።",
    "korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.",
    "japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。ｶﾀｶﾅ１２３",
    "chinese_simplified": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。",
    "chinese_traditional": "人人生而自由，在尊嚴和權利上一律平等。「𠮷野家」很好吃。",
    "mongolian_script": "ᠬᠦᠮᠦᠨ ᠪᠦᠷ ᠲᠥᠷᠥᠵᠦ ᠮᠡᠨᠳᠡᠯᠡᠬᠦ ᠡᠷᠬᠡ ᠴᠢᠯᠥᠭᠡ ᠲᠡᠢ",
    "cherokee": "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᏠᏱ ᎤᎾᏕᎿ",
    "inuktitut": "ᐃᓄᓕᒫᑦ ᐊᓂᖅᑎᕆᔪᑦ ᐃᓄᓕᕆᔪᑦ",
    "tifinagh": "ⴰⵔ ⴷ ⵜⵜⵍⴰⵍⴰⵏ ⵎⵉⴷⴷⵏ ⴳⴰⵏ ⵉⵍⴻⵍⵍⵉⵢⵏ",
    "javanese": "ꦱꦧꦼꦤ꧀ꦲꦸꦮꦺꦴꦁꦏꦭꦲꦶꦫꦏꦺ",
    "yi": "ꊿꂷꃅꄿꐨꐥ，ꌅꅍꂷꀋꐚꃅ",
    "gothic": "𐌰𐌻𐌻𐌰𐌹 𐌼𐌰𐌽𐌽𐌰𐌽𐍃 𐍆𐍂𐌴𐌹𐌷𐌰𐌻𐍃",
    "hieroglyphs": "𓂀𓃠𓆣 𓇳𓊹𓋹",
}

CODE: dict[str, str] = {
    "python": 'def f(x: int) -> str:\n    """Doc."""\n\treturn f"{x!r:>10}" if x != 0x1F else b"\\x00"  # 3.14e-10\n',
    "c": '#include <stdio.h>\r\nint main(void) {\r\n\tprintf("%d\\n", 1<<31);\r\n\treturn 0;\r\n}\r\n',
    "json": '{"a": [1, 2.5e10, null, true], "b\\u00e9": {"c": ""}}\n\n\n',
    "html": '<!DOCTYPE html><p class="x">&nbsp;&amp;<br/></p><!-- c -->',
    "shell": "for f in *.txt; do echo \"$f\" | sed 's/a/b/g' >> /dev/null 2>&1; done; rm -rf ~/x && exit $?",
    "latex": "$$\\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}$$ ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α∧¬β, ½ ⅓ Ⅷ ①②③ x²+y³",
    "regex": "^(?:'s|'t|'re|'ve|'m|'ll|'d)|[^\\s\\p{L}\\p{N}]+\\s+(?!\\S)$",
    "diff": "--- a/x\n+++ b/x\n@@ -1,3 +1,4 @@\n-old\n+new\n",
    "url": "https://example.org/a%20b?q=1&r=%F0%9F%98%80#frag mailto:a.b+c@example.org",
}

EMOJI: dict[str, str] = {
    "simple": "😀😃😄 🎉🔥 ❤️ ☺ ☺️ ✔︎",
    "zwj": "👨‍👩‍👧‍👦 👩🏽‍💻 🏳️‍🌈 🏴‍☠️ 🧑‍🤝‍🧑 ❤️‍🔥",
    "flags": "🇩🇪🇫🇷🇯🇵🇺🇳 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇩",
    "keycaps": "1️⃣2️⃣#️⃣*️⃣ 🔟",
    "skin": "👍🏻👍🏼👍🏽👍🏾👍🏿",
    "in words": "I😀am👍🏽very🎉happy",
}

SPACES: dict[str, str] = {
    "leading": "   three spaces",
    "trailing": "three spaces   ",
    "only": "     ",
    "between": "a  b   c    d     e      f       g        h",
    "tabs": "\ta\t\tb\t\t\tc \t d\t \te",
    "newlines": "a\nb\n\nc\n\n\nd\n \n \n e \n\n  f",
    "crlf": "a\r\nb\r\n\r\nc\r\rd\n\re",
    "mixed": " \n\t \r\n  \t\n x \n",
    "unicode": "a\u00a0b\u2003c\u2009d\u200ae\u202ff\u205fg\u3000h\u1680i\u2028j\u2029k\u0085l\u180em\u200bn\u2060o",
    "unicode runs": "\u00a0\u00a0x\u3000\u3000\u3000y \u00a0z\u2028\u2028\n\u2029",
    "vertical": "a\vb\fc\x1cd\x1de\x1ef\x1fg",
}

ODD: dict[str, str] = {
    "nul": "a\x00b\x00\x00c\x00",
    "bom": "\ufeffstart and \ufeff middle",
    "c0": "".join(map(chr, range(32))),
    "c1": "x" + "".join(map(chr, range(0x7F, 0xA0))) + "y",
    "private use": "\ue000\uf8ff \U000f0000\U0010fffd x\ue123y",
    "noncharacters": "\ufffe\uffff\ufdd0\U0001ffff\U0010ffff",
    "replacement": "\ufffd\ufffd a\ufffdb",
    "bidi": "\u202eabc\u202c \u2066x\u2069 \u200fש\u200e",
    "combining": "e\u0301 a\u030a\u0323 Z\u0351\u034b\u0347a\u0322l\u0321g\u0334o \u0301 \u0301\u0302 1\u0301",
    "nfc nfd": unicodedata.normalize("NFC", "Åéîõü가") + unicodedata.normalize("NFD", "Åéîõü가"),
    "compatibility": "ﬁ ﬂ ﷺ ㎏ ℃ Ａｂｃ ⁵₇ ㌍ ｱ Ǆ ſ K",
    "case": "İıſßẞΣσςǅ",
    "apostrophes": "I'm don't we'll they've he'd it's you're I'M DON'T 'tis 's's ' s ’s ’ll 'sx 'll'll",
    "punctuation": "?!?! ... --- ___ *** ### @@@ ~~~ ``` ''' \"\"\" ((([[[{{{ }}}]]])))<<>>|\\/ ¿¡ …—–―‽ 。、！",
    "digits": "0 12 345 6789 1234567890 3.14159 1,000,000 0x1F 1e-9 ٣٤٥ ६७८ ４５６ 𝟘𝟙𝟚 Ⅻ ² ½ ㊿ 〇 一二三 x1y22z333",
    "marks and numbers": "a1b ١٢٣ ²³¼ 1² x₁₂ ⅷⅸ ᛮ 𐄇 𒐀 10⁻³",
    "modifier letters": "ʰʲʷ ˈaˌb ªº ᴬ ꜛ 々〻ー",
    "surrogate neighbours": "\ud7ff\ue000 \uffff\U00010000",
    "variation selectors": "葛\U000e0100 ☃\ufe0e ☃\ufe0f \ufe0f\ufe0f",
    "hangul jamo": "\u1112\u1161\u11ab \u1100\u1161 ㅎㅏㄴ 한",
    "tags": "\U000e0001\U000e0041\U000e007f",
    "new scripts": "\U00011f02 \U0001e4d0\U0001e4f0 \U00010570 \U0001df00 \U00016ac0 \U000323af \U0001fae8 \U00010d40",
    "html entities": "&lt;|im_start|&gt; &#x1F600;",
}

LONG: dict[str, str] = {
    "spaces": " " * 1000,
    "tabs": "\t" * 300,
    "newlines": "\n" * 500,
    "digits": "1234567890" * 60,
    "letter": "a" * 1500,
    "dashes": "-" * 700,
    "emoji": "👨‍👩‍👧‍👦" * 60,
    "han": "漢字" * 300,
    "zalgo": "e" + "\u0301\u0302\u0323" * 150,
    "spaces then word": " " * 257 + "word",
    "words": "the quick brown fox jumps over the lazy dog " * 40,
    "no space": "antidisestablishmentarianism" * 30,
}

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>",
    "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>",
    "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>",
)  # fmt: skip

SEED = 20240611
_BLOCKS = (
    (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x52F), (0x590, 0x8FF), (0x900, 0xDFF), (0xE00, 0x109F),
    (0x1100, 0x1FFF), (0x2000, 0x2BFF), (0x2E80, 0x33FF), (0x3400, 0xA4CF), (0xA4D0, 0xABFF), (0xAC00, 0xD7A3),
    (0xE000, 0xFFFD), (0x10000, 0x1FFFF), (0x20000, 0x2FA1F), (0xE0000, 0x10FFFF),
)  # fmt: skip


def prompts() -> list[tuple[str, str]]:
    """At least 200 prompts (name, text) in more than 30 scripts: no control characters, none empty."""
    made = []
    for name, sentence in SENTENCES.items():
        words = sentence.split(" ")
        half = " ".join(words[: max(1, len(words) // 2)])
        made += [
            (f"prompt: {name}", sentence),
            (f"prompt: {name}, half", half),
            (f"prompt: {name}, to translate", f"Translate into English:\n\n  {sentence}\n"),
            (f"prompt: {name}, in quotes", f'He said: "{half}" (2024-05-17, 12:30).'),
            (f"prompt: {name}, in a chat", f"<|im_start|>user\n{sentence}<|im_end|>\n<|im_start|>assistant\n"),
        ]
    return made


def texts() -> Iterator[tuple[str, str]]:
    """Everything as (name, text): prompts, code, emoji, spaces, odd characters, long runs, special tokens, random."""
    yield "empty", ""
    yield from prompts()
    groups = {"code": CODE, "emoji": EMOJI, "spaces": SPACES, "odd": ODD, "long": LONG}
    for group, members in groups.items():
        for name, text in members.items():
            yield f"{group}: {name}", text
    for code in range(0x80):  # every single byte that is valid UTF-8
        yield f"byte: {code:#04x}", chr(code)
        yield f"byte in text: {code:#04x}", f"a{chr(code)}b {chr(code)} {chr(code)}{chr(code)}c"
    yield from _special_tokens()
    yield from _random_texts()


def _special_tokens() -> Iterator[tuple[str, str]]:
    for token in SPECIALS:
        yield f"special: {token}", token
        yield f"special in text: {token}", f"a{token}b {token} c\n{token}\n 1{token}2"
        yield f"special, cut: {token}", token[:-1] + " " + token[1:] + token.upper()
    yield "special: all", "".join(SPECIALS)
    yield "special: nested", "<|im_<|im_start|>start|><|im_start|<|im_end|>|>"
    yield "special: chat", "<|im_start|>system\nYou are.<|im_end|>\n<|im_start|>user\n hi <|im_end|> \n"


def _random_texts() -> Iterator[tuple[str, str]]:
    source = random.Random(SEED)
    for index in range(150):
        low, high = _BLOCKS[index % len(_BLOCKS)]
        text = "".join(_random_char(source, low, high) for _ in range(60))
        yield f"random block {low:#x}, {index}", text
    for index in range(150):
        pieces = []
        for _ in range(40):
            low, high = source.choice(_BLOCKS)
            pieces.append(_random_char(source, low, high) * source.choice((1, 1, 1, 2, 3)))
            pieces.append(source.choice(("", "", " ", "  ", "\n", "7", "a")))
        yield f"random mix {index}", "".join(pieces)


def _random_char(source: random.Random, low: int, high: int) -> str:
    while True:
        code = source.randint(low, high)
        if not 0xD800 <= code <= 0xDFFF:
            return chr(code)
