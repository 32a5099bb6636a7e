// What happens on this machine, as lines: state changes of memory blocks, and what the kernel says of them.
//
//   blocks   read every intervalMs (seldomer where reading takes long) and compared:
//            "memory32 online -> going-offline", "memory40 is new, offline"
//   kmsg     lines of /dev/kmsg that are about memory hotplug, from now on, where it may be read
//
// The kernel announces blocks by uevents over netlink, which Node has no socket for; so states are polled, and what comes and
// goes within one interval is not seen. A line says so first. Reading changes nothing.
//
// A record of /dev/kmsg: "6,1234,5678901,-;Offlined Pages 32768\n SUBSYSTEM=..." (Linux Documentation/ABI/testing/dev-kmsg).

import * as fs from 'node:fs';
import type { Clock } from '#control/host';
import { MEMORY_DIR } from '#kernfs/memory-blocks';
import type { KernTree } from '#kernfs/source';

export type WatchOptions = {
  readonly tree: KernTree;
  readonly clock: Clock;
  readonly intervalMs: number;
  readonly onLine: (line: string) => void;
  readonly signal: AbortSignal;
  /** "/dev/kmsg"; undefined: not read. */
  readonly kmsg?: string;
};

/** Reading takes at most a twentieth of the time: a host of 16 TiB has thousands of blocks. */
const PAUSE_PER_READ = 20;

/** Until the signal. Cost: two small files a block and interval. */
export async function watchBlocks(options: WatchOptions): Promise<void> {
  const { tree, clock, intervalMs, onLine, signal } = options;
  const kernel = options.kmsg === undefined ? undefined : openKmsg(options.kmsg);
  const startedMs = clock.nowMs();
  let seen = readStates(tree);
  const pauseMs = Math.round(Math.max(intervalMs, PAUSE_PER_READ * (clock.nowMs() - startedMs)));
  onLine(
    `memory blocks are read every ${pauseMs} ms; what is over sooner is not seen${
      options.kmsg !== undefined && kernel === undefined ? `; ${options.kmsg} may not be read` : ''
    }`,
  );
  try {
    while (!signal.aborted) {
      await clock.sleep(pauseMs, signal);
      if (signal.aborted) return;
      const now = readStates(tree);
      for (const line of changes(seen, now)) onLine(line);
      for (const line of kernel?.read() ?? []) onLine(`kernel: ${line}`);
      seen = now;
    }
  } finally {
    kernel?.close();
  }
}

/** Block id -> "online Movable". A block that leaves while it is read is not there. */
export function readStates(tree: KernTree): Map<number, string> {
  const states = new Map<number, string>();
  const ids = tree.list(MEMORY_DIR).flatMap((name) => {
    const m = /^memory(\d+)$/.exec(name);
    return m === null ? [] : [Number(m[1])];
  });
  for (const id of ids.sort((a, b) => a - b)) {
    const state = tree.readText(`${MEMORY_DIR}/memory${id}/state`)?.trim();
    if (state === undefined) continue;
    const zones = state === 'online' ? tree.readText(`${MEMORY_DIR}/memory${id}/valid_zones`)?.trim() : undefined;
    states.set(id, zones === undefined || zones === 'none' ? state : `${state} ${zones}`);
  }
  return states;
}

/** One line for each block that is new, gone, or another than before; ascending. */
export function changes(before: ReadonlyMap<number, string>, now: ReadonlyMap<number, string>): string[] {
  const lines: string[] = [];
  for (const id of [...new Set([...before.keys(), ...now.keys()])].sort((a, b) => a - b)) {
    const [was, is] = [before.get(id), now.get(id)];
    if (was === is) continue;
    if (was === undefined) lines.push(`memory${id} is new, ${is}`);
    else lines.push(is === undefined ? `memory${id} is gone, was ${was}` : `memory${id} ${was} -> ${is}`);
  }
  return lines;
}

const ABOUT_MEMORY = [
  /^(Offlined Pages|memory offlining|migrating pfn|failed to (isolate|migrate) pfn|page dumped because|online_pages)/,
  /^(removing memory|Memory hot|Hotplug memory|Block size \[|Built \d+ zonelists|Fallback order|Memory failure|Soft offline)/,
  /^(memory memory\d+:|acpi PNP0C80|virtio_mem |virtio_balloon |mem auto-init)/,
];

/** The text of a record, when it is about memory hotplug. */
export function kmsgLine(record: string): string | undefined {
  const text = /^\d+,\d+,\d+,[^;]*;(.*)/.exec(record)?.[1];
  return text !== undefined && ABOUT_MEMORY.some((p) => p.test(text)) ? text : undefined;
}

const RECORD_BYTES = 8192; // CONSOLE_EXT_LOG_MAX: the longest record; a shorter buffer is EINVAL
/** A ring of 2^25 bytes, the largest that can be configured, holds no more. */
const RECORDS_MAX = 2 ** 20;

/** New records from now on. Each read(2) gives one; it would wait for the next, were it not opened so that it does not. */
function openKmsg(file: string): { read(): string[]; close(): void } | undefined {
  let fd: number;
  try {
    fd = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  } catch {
    return undefined;
  }
  const buffer = Buffer.alloc(RECORD_BYTES);
  const readAll = (): string[] => {
    const lines: string[] = [];
    for (let k = 0; k < RECORDS_MAX; k++) {
      let got: number;
      try {
        got = fs.readSync(fd, buffer);
      } catch (e) {
        if ((e as NodeJS.ErrnoException).code === 'EPIPE') continue; // overwritten before it was read: the next is there
        break; // EAGAIN: no more for now
      }
      if (got === 0) break;
      const line = kmsgLine(buffer.toString('utf8', 0, got));
      if (line !== undefined) lines.push(line);
    }
    return lines;
  };
  readAll(); // what was said before
  return { read: readAll, close: () => fs.closeSync(fd) };
}
