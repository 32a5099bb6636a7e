// Shell words: a command line cut into commands, words and where its output goes. As much of sh as a prompt on a tree needs.
//
//   echo offline > memory3/state; cat memory*/state      # a comment
//   └──────────── command ─────┘  └─── command ───┘
//
// Quotes '...' and "..." and a backslash take special characters literally; $? is the last status; * and ? in a word that
// was not quoted match names. There are no variables, pipes or jobs: `&`, `|` and `<` are refused, not passed over.

import { err, ok, type Result } from '#base/result';

export type Word = { readonly text: string /** Holds * or ? that were not quoted. */; readonly glob: boolean };

export type ShellCommand = {
  readonly words: readonly Word[];
  /** Behind ">" or ">>", which are the same for a kernel file. */
  readonly to: Word | undefined;
};

/** Stands for $? in a word: known when the command runs, not when the line is cut. No input has it. */
export const LAST_STATUS = '\0';

/** @returns the commands; or a sentence */
export function parseLine(line: string): Result<ShellCommand[], string> {
  const commands: ShellCommand[] = [];
  let words: Word[] = [];
  let to: Word | undefined;
  let redirect = false;
  let text = '';
  let glob = false;
  let open = false; // a word has begun, perhaps an empty quoted one

  const endWord = (): void => {
    if (!open) return;
    const word = { text, glob };
    if (redirect) to = word;
    else words.push(word);
    if (redirect) redirect = false;
    text = '';
    glob = false;
    open = false;
  };
  const endCommand = (): string | undefined => {
    endWord();
    if (redirect) return 'a file name is missing behind >';
    if (words.length > 0 || to !== undefined) commands.push({ words, to });
    words = [];
    to = undefined;
    return undefined;
  };

  for (let k = 0; k < line.length; k++) {
    const c = line[k] as string;
    if (c === "'" || c === '"') {
      const end = line.indexOf(c, k + 1);
      if (end < 0) return err(`the quote ${c} is not closed`);
      const quoted = line.slice(k + 1, end);
      text += c === '"' ? quoted.replaceAll('$?', LAST_STATUS) : quoted;
      open = true;
      k = end;
    } else if (c === '\\' && k + 1 < line.length) {
      text += line[++k] as string;
      open = true;
    } else if (/\s/.test(c)) endWord();
    else if (c === '#' && !open) break;
    else if (c === ';') {
      const wrong = endCommand();
      if (wrong !== undefined) return err(wrong);
    } else if (c === '>') {
      endWord();
      if (redirect || to !== undefined) return err('output can go to one file only');
      redirect = true;
      if (line[k + 1] === '>') k++;
    } else if (c === '&' || c === '|' || c === '<') return err(`${c} is not known here; see help`);
    else if (c === '$' && line[k + 1] === '?') {
      text += LAST_STATUS;
      open = true;
      k++;
    } else {
      if (c === '*' || c === '?') glob = true;
      text += c;
      open = true;
    }
  }
  const wrong = endCommand();
  return wrong === undefined ? ok(commands) : err(wrong);
}
