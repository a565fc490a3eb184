"""Raw text to lower-cased BERT word pieces, one line out for each line in.

    python scripts/tokenize_text.py --out-dir tokenized raw/train.src raw/train.tgt
    python scripts/tokenize_text.py - < questions.txt > questions.tok
"""

from bang.text.tokenize import main

if __name__ == "__main__":
    main()
