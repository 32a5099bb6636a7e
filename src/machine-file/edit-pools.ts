// Edits of the list `pools:` in a text that people wrote: what is not changed stays as it is, comments and order included.
//
//   text ──parseDocument──> document ──edits──> document ──print──> its text, reformatted
//     │                                                                │ only the piece "pools: ..." is taken from it
//     └── before ────────── [ pools: ... ] ────────── behind ──────────┘
//
// So every byte outside of the list survives; inside of it comments and order do, and blanks may not. Where the piece cannot
// be told (a flow mapping at the top, text that would read differently), the whole document is printed instead.
//
// Invariant: the new text reads as the old one with the edits applied, value by value; looked at on every edit, not assumed.

import { type Document, isAlias, isMap, isPair, isScalar, isSeq, parseDocument, type YAMLMap } from 'yaml';
import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { POOL_FIELDS, type PoolField } from './pool-plan.ts';

/** What YAML can say: no undefined, no class. */
export type Plain = string | number | boolean | readonly Plain[] | { readonly [key: string]: Plain };

export type PoolEdit =
  | { readonly kind: 'add'; readonly fields: Partial<Readonly<Record<PoolField, Plain>>> & { readonly name: string } }
  /** undefined: the field goes. */
  | { readonly kind: 'set'; readonly pool: string; readonly field: PoolField; readonly value: Plain | undefined }
  | { readonly kind: 'remove'; readonly pool: string };

/** A value as YAML writes it: "{ bits: 32 }". Or what is wrong with it. */
export function plainOf(text: string): Result<Plain, string> {
  const doc = parseDocument(text, READ);
  const [bad] = doc.errors;
  if (bad !== undefined) return err(`not YAML: ${bad.message.split('\n')[0]}`);
  const value: unknown = doc.toJS();
  return value === null || value === undefined ? err('nothing is said here') : ok(value as Plain); // of a parsed document
}

const PRINT = { lineWidth: 0, flowCollectionPadding: true } as const;
const READ = { version: '1.2', stringKeys: true, keepSourceTokens: false } as const;

/**
 * @param text  a YAML mapping that parses; "" is one without fields
 * @returns the new text; or a sentence where people wrote the list in a way that only they can change (aliases).
 *   Cost O(text)
 */
export function editPools(text: string, edits: readonly PoolEdit[]): Result<string, string> {
  const doc = parseDocument(text, READ);
  assert(doc.errors.length === 0, 'the text parses', { errors: doc.errors.map((e) => e.message) });
  for (const edit of edits) {
    const refused = apply(doc, edit);
    if (refused !== undefined) return err(refused);
  }
  const whole = doc.toString(PRINT);
  const pieced = splice(text, whole);
  return ok(pieced !== undefined && reads(pieced) === reads(whole) ? pieced : whole);
}

/** The values of a text, to compare. */
const reads = (text: string): string => JSON.stringify(parseDocument(text, READ).toJS());

function apply(doc: Document, edit: PoolEdit): string | undefined {
  const list = doc.get('pools');
  if (isAlias(list)) return 'its pools are an alias: change them by hand';
  if (edit.kind === 'add') {
    if (!isSeq(list)) doc.set('pools', doc.createNode([]));
    const seq = doc.get('pools');
    assert(isSeq(seq), 'a list has been made');
    if (seq.items.length === 0) seq.flow = false;
    const ordered = POOL_FIELDS.flatMap((f) => (edit.fields[f] === undefined ? [] : [[f, edit.fields[f]] as const]));
    const item = doc.createNode(Object.fromEntries(ordered)) as YAMLMap; // of an object
    const style = seq.items.find((i) => isMap(i));
    item.flow = style !== undefined && isMap(style) && style.flow === true;
    for (const pair of item.items) compact(pair);
    seq.items.push(item);
    return undefined;
  }
  assert(isSeq(list), 'a pool to be changed stands in a list', { edit });
  const k = list.items.findIndex((i) => isMap(i) && i.get('name') === edit.pool);
  const item = list.items[k];
  if (!isMap(item)) return `pool ${edit.pool} stands in it as an alias: change it by hand`;
  if (edit.kind === 'remove') {
    list.items.splice(k, 1);
    const first = list.items[0];
    if (first === undefined) doc.delete('pools');
    else if (k === 0 && isMap(first)) first.spaceBefore = false;
  } else if (edit.value === undefined) item.delete(edit.field);
  else {
    const old = item.get(edit.field, true);
    // A value that is one word keeps its node, and with it the comment beside it.
    if (isScalar(old) && typeof edit.value !== 'object') old.value = edit.value;
    else item.set(edit.field, doc.createNode(edit.value));
    const pair = item.items.find((p) => isScalar(p.key) && p.key.value === edit.field);
    if (pair !== undefined && typeof edit.value === 'object') compact(pair);
  }
  return undefined;
}

/** Lists and maps below a field of a pool are written in one line. */
function compact(pair: unknown): void {
  if (isPair(pair) && (isMap(pair.value) || isSeq(pair.value))) pair.value.flow = true;
}

/** `text` with its piece "pools: ..." taken from `whole`; undefined where there is no such piece to tell. */
function splice(text: string, whole: string): string | undefined {
  const [from, to] = [pieceOf(text), pieceOf(whole)];
  if (from === undefined || to === undefined) return undefined;
  const printed = whole
    .slice(to.start, to.end)
    .replace(/[ \t]+$/gm, '')
    .replace(/(?<!^)\n*$/, '\n');
  const isTight = !/\[ \S/.test(text.slice(from.start, from.end));
  const piece = isTight ? printed.replace(/\[ (?=\S)/g, '[').replace(/(?<=\S) \]/g, ']') : printed;
  const behind = text.slice(from.end);
  const joined = from.end > from.start && text[from.end - 1] !== '\n' ? behind.replace(/^\r?\n/, '') : behind;
  const lines = text.includes('\r\n') ? piece.replace(/\n/g, '\r\n') : piece;
  return text.slice(0, from.start) + lines + joined;
}

/** Where "pools: ..." stands, its lines whole; where it would be appended, if there is none. */
function pieceOf(text: string): { start: number; end: number } | undefined {
  const top = parseDocument(text, READ).contents;
  if (top === null || !isMap(top) || top.flow === true) return undefined;
  const pair = top.items.find((p) => isScalar(p.key) && p.key.value === 'pools');
  if (pair === undefined) return /\n$|^$/.test(text) ? { start: text.length, end: text.length } : undefined;
  const start = isScalar(pair.key) ? pair.key.range?.[0] : undefined;
  const end = isSeq(pair.value) || isScalar(pair.value) ? pair.value.range?.[2] : undefined;
  if (start === undefined || end === undefined || (start > 0 && text[start - 1] !== '\n')) return undefined;
  return { start, end };
}
