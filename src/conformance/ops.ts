// ops.jsonl: what was done to a recorded guest and what was read, a line each, in time order.
//
//   boot       memory, numa and device words of QEMU, command line, folder of the first snapshot
//   write      path, value, errno (0 = accepted, null = not recorded)
//   blocks     rows as read at that moment        zones  rows of zoneinfo        meminfo  MemTotal, MemFree in kB
//   snapshot   folder with all files as they were
//   qmp, qga   request and reply                  event  an asynchronous event of QEMU
//   load       a command that used memory or read things
//
// Parsing is strict where the replay depends on it; unknown kinds of lines are counted, not fatal.

import { err, ok, type Result } from '#base/result';

export type BlockRow = {
  readonly block: number;
  readonly state: string;
  readonly valid_zones: string;
  readonly nodes: readonly number[];
};
export type ZoneRow = {
  readonly node: number;
  readonly zone: string;
  readonly spanned: number;
  readonly present: number;
  readonly managed: number;
};
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
export type JsonObject = { readonly [key: string]: Json };

export type Op =
  | {
      readonly op: 'boot';
      readonly memory: readonly string[];
      readonly backends: readonly string[];
      readonly numa: readonly string[];
      readonly devices: readonly string[];
      readonly cmdline: string;
      readonly snapshot: string | null;
    }
  | {
      readonly op: 'write';
      readonly path: string;
      readonly value: string;
      readonly errno: number | null;
      readonly block?: number;
      readonly zone?: string;
      readonly valid_zones_offline?: string;
      readonly valid_zones_after?: string;
    }
  | { readonly op: 'blocks'; readonly rows: readonly BlockRow[] }
  | { readonly op: 'zones'; readonly rows: readonly ZoneRow[] }
  | { readonly op: 'meminfo'; readonly MemTotal: number; readonly MemFree: number }
  | { readonly op: 'snapshot'; readonly dir: string }
  | { readonly op: 'qmp' | 'qga'; readonly request: JsonObject; readonly reply: JsonObject }
  | { readonly op: 'event'; readonly event: string; readonly data: JsonObject | null }
  | { readonly op: 'load'; readonly command: string };

export type TimedOp = Op & { readonly t: number; readonly line: number };

const NEEDS: Readonly<Record<Op['op'], readonly string[]>> = {
  boot: ['memory', 'cmdline', 'snapshot'],
  write: ['path', 'value'],
  blocks: ['rows'],
  zones: ['rows'],
  meminfo: ['MemTotal'],
  snapshot: ['dir'],
  qmp: ['request'],
  qga: ['request'],
  event: ['event'],
  load: ['command'],
};

export type Ops = { readonly ops: readonly TimedOp[]; readonly unknown: number };

/** Lines of ops.jsonl. @returns a sentence that names the first line that cannot be understood */
export function parseOps(text: string): Result<Ops, string> {
  const ops: TimedOp[] = [];
  let unknown = 0;
  for (const [i, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    let o: unknown;
    try {
      o = JSON.parse(line);
    } catch {
      return err(`line ${i + 1} is not JSON`);
    }
    if (typeof o !== 'object' || o === null || !('op' in o) || typeof o.op !== 'string') {
      return err(`line ${i + 1} is no operation`);
    }
    const needs = NEEDS[o.op as Op['op']];
    if (needs === undefined) {
      unknown++;
      continue;
    }
    const missing = needs.find((key) => !(key in o));
    if (missing !== undefined) return err(`line ${i + 1}: a ${o.op} needs "${missing}"`);
    const t = 't' in o && typeof o.t === 'number' ? o.t : Number.POSITIVE_INFINITY;
    ops.push({ ...(o as Op), t, line: i + 1 }); // the keys that the replay reads are there
  }
  if (ops[0]?.op !== 'boot') return err('the first line is not the boot');
  return ok({ ops, unknown });
}

/** "300M" -> bytes; a plain number is MiB, as QEMU's -m takes it, when `unit` says so. Undefined for anything else. */
export function qemuSize(text: string, unit: 'bytes' | 'MiB' = 'bytes'): number | undefined {
  const m = /^(\d+)([KMGT])?$/i.exec(text);
  if (m === null) return undefined;
  const power = m[2] === undefined ? (unit === 'MiB' ? 2 : 0) : 'KMGT'.indexOf(m[2].toUpperCase()) + 1;
  return Number(m[1]) * 1024 ** power;
}

/** "pc-dimm,id=d0,memdev=m0" -> { '': 'pc-dimm', id: 'd0', memdev: 'm0' } */
export function qemuWords(text: string): Readonly<Record<string, string>> {
  const out: Record<string, string> = {};
  for (const part of text.split(',')) {
    const at = part.indexOf('=');
    if (at < 0) out[''] ??= part;
    else out[part.slice(0, at)] = part.slice(at + 1);
  }
  return out;
}
