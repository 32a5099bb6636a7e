// Next-arg: a kernel command line cut into words, the way the kernel cuts it.
//
//   console=ttyS0 movablecore=512M "dyndbg=file x.c +p" -- init-argument
//   |- word -----||- word --------||- word, quoted -----|   |- a word too; that it is init's, the caller knows
//
// Blanks separate unless inside double quotes, which cannot be escaped; a quote before the word or right after its
// first "=" is not part of the value, nor is the one that closes it. "-" and "_" are the same in a name.
//
// Follows Linux v6.12 lib/cmdline.c: next_arg(), kernel/params.c: parameq(). Two readers need it: the capture side keeps
// the line as it was (kernfs/cmdline.ts), the engine obeys it (mm/boot-params.ts).

export type Arg = {
  readonly key: string;
  /** Text after the first "="; absent for a word without one ("movable_node"). */
  readonly value?: string;
};

/** The words as they stand, quotes included, in order. Cost O(length). */
export function splitArgs(line: string): string[] {
  const words: string[] = [];
  let word = '';
  let inQuote = false;
  for (const c of line) {
    if (c === '"') inQuote = !inQuote;
    if (!inQuote && /[ \t\n\v\f\r]/.test(c)) {
      if (word !== '') words.push(word);
      word = '';
    } else word += c;
  }
  if (word !== '') words.push(word);
  return words;
}

/** Name and value of one word of splitArgs. */
export function argOf(raw: string): Arg {
  const wholeQuoted = raw.startsWith('"');
  let word = wholeQuoted ? raw.slice(1) : raw;
  // next_arg() looks for "=" from the second character on: "=x" is a name.
  const equals = word.indexOf('=', 1);
  if (equals < 0) {
    if (wholeQuoted && word.endsWith('"')) word = word.slice(0, -1);
    return { key: word };
  }
  let value = word.slice(equals + 1);
  const valueQuoted = value.startsWith('"');
  if (valueQuoted) value = value.slice(1);
  if ((valueQuoted || wholeQuoted) && value.endsWith('"')) value = value.slice(0, -1);
  return { key: word.slice(0, equals), value };
}

/** One spelling of a parameter's name: "memhp-default-state" and "memhp_default_state" are the same. */
export const sameName = (key: string): string => key.replaceAll('-', '_');
