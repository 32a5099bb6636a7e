// JSON diff: how one JSON value became another, as a JSON value that is small where little changed.
//
//   same value                         undefined: nothing is written
//   objects; arrays of equal length    {"~": {key: diff, ...}, "-": [keys that went]}
//   anything else                      {"=": the new value}
//
// An observation of a machine with 200 blocks is 20 kB; from one step to the next, one block's state changes. The kernel's
// tables grow at their ends and in between, so that an array of another length is written whole: simple, and still small.
//
// Invariant: patch(a, diff(a, b)) equals b, for all JSON values (json-diff.fuzz.ts). Keys whose value is undefined count as
// absent, as JSON has it.

import { assert } from '#base/assert';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json | undefined };
type JsonObject = { readonly [key: string]: Json | undefined };

export type JsonDiff =
  | { readonly '=': Json }
  | { readonly '~'?: { readonly [key: string]: JsonDiff }; readonly '-'?: readonly string[] };

const isObject = (x: Json | undefined): x is JsonObject => typeof x === 'object' && x !== null && !Array.isArray(x);

/** @returns undefined when the two are equal. Cost O(size of both) */
export function diff(a: Json, b: Json): JsonDiff | undefined {
  if (Array.isArray(a) && Array.isArray(b) && a.length === b.length) return diffMembers(a as never, b as never);
  if (isObject(a) && isObject(b)) return diffMembers(a, b);
  return Object.is(a, b) ? undefined : { '=': b };
}

function diffMembers(a: JsonObject, b: JsonObject): JsonDiff | undefined {
  const changed: [string, JsonDiff][] = [];
  for (const [key, after] of Object.entries(b)) {
    if (after === undefined) continue;
    const before = Object.hasOwn(a, key) ? a[key] : undefined;
    const d = before === undefined ? { '=': after } : diff(before, after);
    if (d !== undefined) changed.push([key, d]);
  }
  const gone = Object.keys(a).filter((key) => a[key] !== undefined && (!Object.hasOwn(b, key) || b[key] === undefined));
  if (changed.length === 0 && gone.length === 0) return undefined;
  return {
    ...(changed.length === 0 ? {} : { '~': Object.fromEntries(changed) }),
    ...(gone.length === 0 ? {} : { '-': gone }),
  };
}

/** The value that `d` leads to. A diff that does not fit `a` is a bug of who kept them together. */
export function patch(a: Json, d: JsonDiff | undefined): Json {
  if (d === undefined) return a;
  if ('=' in d) return d['='];
  assert(typeof a === 'object' && a !== null, 'a diff of members, and no members', { value: a });
  const members = d['~'] ?? {};
  const next = (key: string, before: Json | undefined): Json | undefined => {
    const change = Object.hasOwn(members, key) ? members[key] : undefined;
    if (change === undefined) return before;
    if ('=' in change) return change['='];
    assert(before !== undefined, 'a diff changes a member that is not there', { key });
    return patch(before, change);
  };
  if (Array.isArray(a)) return (a as readonly Json[]).map((x, k) => next(String(k), x) as Json);
  const gone = new Set(d['-'] ?? []);
  const old = a as JsonObject;
  const keys = new Set([...Object.keys(old).filter((k) => !gone.has(k)), ...Object.keys(members)]);
  return Object.fromEntries([...keys].map((k) => [k, next(k, Object.hasOwn(old, k) ? old[k] : undefined)]));
}
