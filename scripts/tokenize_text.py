"""Raw text to word pieces: `python -m bang.tokenize` without the seconds that importing fairseq takes.

    python scripts/tokenize_text.py --out-dir tokenized raw/train.src raw/train.tgt
    python scripts/tokenize_text.py - < questions.txt > questions.tok
"""

import sys
import types
from pathlib import Path

package = types.ModuleType("bang")  # the package without its __init__, which registers with fairseq
package.__path__ = [str(Path(__file__).resolve().parents[1] / "bang")]
sys.modules["bang"] = package

from bang.tokenize import main  # noqa: E402

if __name__ == "__main__":
    main()
