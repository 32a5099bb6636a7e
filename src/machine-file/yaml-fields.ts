// YAML fields: a parsed YAML document read field by field, where every refusal names the line and the field.
//
//   Field     a value, where it stands ("nodes[1].ram[0].size") and on which line
//   map()     its entries by name; a name that is not expected is refused, with the ones that are
//   list()    its items
//   entries() its entries, whatever their names
//   text(), flag(), count(), size(), address(), pages()     what it should be, or a refusal that says so
//
// Sizes carry a unit ("4G"), addresses are hexadecimal or carry a unit: a bare decimal number could be either bytes or
// MiB, and is refused (0 is 0). The first refusal ends the reading: it is thrown, and `readYaml` turns it into a value.

import { isAlias, isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, Scalar } from 'yaml';
import { parseSize } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { PAGE_SIZE } from '#mm/index';

export type MachineFileProblem = {
  /** 1-based. */
  readonly line: number;
  /** "nodes[1].ram[0].size"; empty for the file as a whole. */
  readonly field: string;
  /** "line 7, nodes[1].ram: ..." */
  readonly sentence: string;
};

/** A sentence about a place in a file. */
export function problemAt(
  place: { readonly line: number; readonly field: string },
  reason: string,
): MachineFileProblem {
  const { line, field } = place;
  return { line, field, sentence: `line ${line}${field === '' ? '' : `, ${field}`}: ${reason}` };
}

/** Not an InvariantError: it never leaves readYaml. */
class FieldError extends Error {
  readonly problem: MachineFileProblem;
  constructor(line: number, field: string, reason: string) {
    super(reason);
    this.problem = problemAt({ line, field }, reason);
  }
}

type Source = { readonly lineOf: (offset: number) => number; readonly resolve: (node: Node) => unknown };

/** Addresses are at most 52 bits. */
const MAX_ADDRESS = 2 ** 52;

export class Field {
  readonly #node: unknown;
  readonly #source: Source;
  readonly line: number;
  readonly path: string;

  constructor(node: unknown, source: Source, path: string, line: number) {
    this.#node = isAlias(node) ? source.resolve(node) : node;
    this.#source = source;
    this.path = path;
    const range = (node as Node | null)?.range;
    this.line = range === undefined || range === null ? line : source.lineOf(range[0]);
  }

  /** Ends the reading: one sentence, without the line and the field, which are added. */
  refuse(reason: string): never {
    throw new FieldError(this.line, this.path, reason);
  }

  get isList(): boolean {
    return isSeq(this.#node);
  }

  get isMap(): boolean {
    return isMap(this.#node);
  }

  /** Its entries by name; null counts as absent. */
  map(names: readonly string[]): ReadonlyMap<string, Field> {
    const node = this.#node;
    if (!isMap(node)) return this.refuse(`fields are wanted here (${names.join(', ')}), not ${this.#shown()}`);
    const out = new Map<string, Field>();
    for (const pair of node.items) {
      const key = new Field(pair.key, this.#source, this.path, this.line);
      const name = key.#scalar();
      const path = this.path === '' ? String(name) : `${this.path}.${String(name)}`;
      const value = new Field(pair.value, this.#source, path, key.line);
      if (typeof name !== 'string' || !names.includes(name))
        return value.refuse(`there is no such field; there are ${names.join(', ')}`);
      if (pair.value !== null && value.#scalar() !== null) out.set(name, value);
    }
    return out;
  }

  /** Its entries where any name will do, in the order of the file; a name that comes twice is no YAML. */
  entries(): readonly (readonly [name: string, value: Field])[] {
    const node = this.#node;
    if (!isMap(node)) return this.refuse(`names with values are wanted here, not ${this.#shown()}`);
    return node.items.map((pair) => {
      const key = new Field(pair.key, this.#source, this.path, this.line);
      const name = key.text();
      return [name, new Field(pair.value, this.#source, `${this.path}.${name}`, key.line)];
    });
  }

  list(): readonly Field[] {
    const node = this.#node;
    if (!isSeq(node)) return this.refuse(`a list is wanted here, not ${this.#shown()}`);
    return node.items.map((item, k) => new Field(item, this.#source, `${this.path}[${k}]`, this.line));
  }

  text(): string {
    const value = this.#scalar();
    return typeof value === 'string' ? value : this.refuse(`text is wanted here, not ${this.#shown()}`);
  }

  /** As it is written: kernel: 6.10 is no number here. */
  word(): string {
    const node = this.#node;
    if (!isScalar(node)) return this.refuse(`a word is wanted here, not ${this.#shown()}`);
    return node.type === Scalar.PLAIN ? (node.source ?? String(node.value)) : String(node.value);
  }

  oneOf<T extends string>(choices: readonly T[]): T {
    const word = this.word();
    return choices.find((c) => c === word) ?? this.refuse(`${JSON.stringify(word)} is none of ${choices.join(', ')}`);
  }

  flag(): boolean {
    const value = this.#scalar();
    return typeof value === 'boolean' ? value : this.refuse(`true or false is wanted here, not ${this.#shown()}`);
  }

  /** A whole number from `least` to `most`. */
  count(least: number, most: number): number {
    const value = this.#scalar();
    if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most) return value;
    return this.refuse(`a whole number from ${least} to ${most} is wanted here, not ${this.#shown()}`);
  }

  /** Bytes, more than none. */
  size(): number {
    const bytes = this.#bytes();
    if (bytes === undefined)
      return this.refuse(`${this.#shown()} is no size: write one with its unit, such as 512M or 4G`);
    return bytes > 0 && bytes <= MAX_ADDRESS ? bytes : this.refuse('a size is more than nothing, and at most 4P');
  }

  address(): number {
    const bytes = this.#bytes();
    if (bytes === undefined)
      return this.refuse(`${this.#shown()} is no address: write 0x100000000, or one with its unit, such as 4G`);
    return bytes <= MAX_ADDRESS ? bytes : this.refuse('an address has at most 52 bits');
  }

  /** Whole pages of 4 KiB: "512M", or "131072 pages". */
  pages(least: 0 | 1): number {
    const counted = /^(\d+) pages?$/.exec(isScalar(this.#node) ? this.word() : '');
    const bytes = counted === null ? this.#bytes() : Number(counted[1]) * PAGE_SIZE;
    if (bytes === undefined)
      return this.refuse(`${this.#shown()} is no size: write one with its unit, such as 512M or 1024 pages`);
    if (bytes > MAX_ADDRESS) return this.refuse('a size is at most 4P');
    if (bytes % PAGE_SIZE !== 0) return this.refuse(`${this.#shown()} is not whole pages of 4K`);
    return bytes === 0 && least === 1 ? this.refuse('a size is more than nothing') : bytes / PAGE_SIZE;
  }

  #bytes(): number | undefined {
    const word = isScalar(this.#node) ? this.word() : '';
    if (word === '0') return 0;
    const bytes = /^0x[0-9a-f]+$/i.test(word) ? Number(word) : parseSize(word);
    return Number.isSafeInteger(bytes) ? bytes : undefined;
  }

  #scalar(): unknown {
    return isScalar(this.#node) ? this.#node.value : undefined;
  }

  #shown(): string {
    if (isMap(this.#node)) return 'fields';
    if (isSeq(this.#node)) return 'a list';
    return isScalar(this.#node) ? JSON.stringify(this.word()) : 'nothing';
  }
}

/** Reads one YAML document with `read`. Refusals of the syntax and of `read` come back as a value. */
export function readYaml<T>(text: string, read: (root: Field) => T): Result<T, MachineFileProblem> {
  const lines = new LineCounter();
  const doc = parseDocument(text, { lineCounter: lines, prettyErrors: false, version: '1.2', stringKeys: true });
  const lineOf = (offset: number): number => Math.max(1, lines.linePos(offset).line);
  const [bad] = doc.errors;
  if (bad !== undefined) {
    const line = lineOf(bad.pos[0]);
    return err(problemAt({ line, field: '' }, `not YAML: ${bad.message.split('\n')[0]}`));
  }
  if (doc.contents === null) return err(problemAt({ line: 1, field: '' }, 'the file is empty'));
  const source: Source = { lineOf, resolve: (node) => (isAlias(node) ? node.resolve(doc) : node) };
  try {
    return ok(read(new Field(doc.contents, source, '', 1)));
  } catch (error) {
    if (error instanceof FieldError) return err(error.problem);
    throw error;
  }
}
