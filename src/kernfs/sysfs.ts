// Attributes: what sysfs files of one value have in common. One line, a newline at its end, no blanks around.
//
// Copies of such files (test trees for lsmem, an editor's work) often lack the newline; a single value without it is
// read all the same. An attribute that is absent is not wrong: kernels and architectures have different ones.

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem, KernTree } from './source.ts';
import { problem, quoted, singleLine } from './text.ts';

/** A reader of one attribute's text: its value, or what was expected instead. */
export type AttributeReader<T> = (line: string) => T | undefined;

/** The attribute's value; undefined where it is absent; refused where its text is not what `expected` describes. */
export function readAttribute<T>(
  tree: KernTree,
  path: string,
  attribute: { readonly expected: string; readonly read: AttributeReader<T> },
): Result<T | undefined, KernfsProblem> {
  const text = tree.readText(path);
  if (text === undefined) return ok(undefined);
  const line = singleLine(text);
  const value = line === undefined ? undefined : attribute.read(line.trim());
  if (value === undefined) return problem(path, 1, `expected ${attribute.expected}, found ${quoted(text)}`);
  return ok(value);
}

/** One of a closed list of words. */
export const oneOf =
  <T extends string>(words: readonly T[]): AttributeReader<T> =>
  (line) =>
    words.find((word) => word === line);

/** The number N of "memoryN" or "nodeN"; undefined for other names ("memory", "node1x", "power"). */
export function numberIn(name: string, prefix: string): number | undefined {
  if (!name.startsWith(prefix)) return undefined;
  const digits = name.slice(prefix.length);
  return /^(?:0|[1-9]\d{0,9})$/.test(digits) ? Number(digits) : undefined;
}
