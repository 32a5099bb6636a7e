// mountFuse: a KernelFs as a live directory, for every program of the machine. Plain Node, no native addon.
//
//   guard the place ─> open /dev/fuse ─> watchdog ─> mount -i -o fd=3 (mount(8) inherits the descriptor) ─> serve
//                                                                                                           │
//   unmount(), umount(8) by somebody, an error of the tree ─> writes end with EINTR ─> umount -f -l ─> closed
//
// mount(8) connects descriptor and directory; from then on the kernel sends requests (protocol.ts), which a session answers
// (session.ts). Undo ladder: the watchdog is started before the mount, so there is no moment at which a crash leaves one
// behind; a failed mount dismisses it and closes the device. Point of no return: none, unmounting is always possible.
//
// Which ways out there are, and what detaches the mount in each:
//
//   unmount()                      we do, then `closed` resolves
//   umount DIR by somebody         the kernel ends the connection; `closed` resolves
//   process.exit(), an exception   the exit hook lets go of the watchdog, which does (and wakes the read that node waits for)
//   kill -9, a signal's default    the kernel closes the pipe; the watchdog does
//
// Signals are the program's business, not a library's: the command line (src/cli) unmounts on SIGINT, SIGTERM and SIGHUP.
//
// Source: Linux Documentation/filesystems/fuse.rst; fs/fuse/inode.c (options, umount_begin).

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs';
import * as os from 'node:os';
import { performance } from 'node:perf_hooks';
import { ok, type Result } from '#base/result';
import type { KernelFs } from '#kernfs/kernel-fs';
import { FUSE_DEVICE, serveDevice, writeReply } from './device.ts';
import { guardPlace, type MountRefusal, readMounts, refuseMount } from './guard.ts';
import { FUSE_TYPE, topMount } from './mount-table.ts';
import { FuseSession } from './session.ts';
import { startWatchdog } from './watchdog.ts';

const MOUNT_TIMEOUT_MS = 10_000;
const UMOUNT_TIMEOUT_MS = 10_000;

export type MountOptions = {
  /** A write that takes longer ends with ETIMEDOUT, undone as by a signal; undefined: never, as Linux. */
  readonly writeTimeoutMs?: number;
};

/** How a mount ended: `error` is a bug of the tree or the device's; undefined after an unmount, by whomever. */
export type MountEnd = { readonly error: unknown };

export type Mounted = {
  /** Real path. */
  readonly dir: string;
  /** Source of the mount, unique: what guards compare. */
  readonly tag: string;
  readonly watchdogPid: number | undefined;
  /** Never rejects. */
  readonly closed: Promise<MountEnd>;
  /** What the kernel holds of the tree; all but the root are given back in time. */
  readonly held: FuseSession['held'];
  /** Ends writes with EINTR, detaches the mount, also when files in it are open. May be called twice. */
  unmount(): Promise<MountEnd>;
};

/** undefined where trees can be mounted; else why not, in one sentence. Cheap: opens and closes the device. */
export function whyNoFuse(): MountRefusal | undefined {
  const opened = openDevice();
  if (!opened.ok) return opened.error;
  fs.closeSync(opened.value);
  return undefined;
}

/**
 * Mounts a tree on an empty directory.
 * @returns the mount, or a refusal: no-device, not-permitted, byte-order, forbidden-place, not-a-directory, not-empty,
 *   in-use, mount-failed. Effects: two child processes (mount(8), and the watchdog until the end), one thread of Node's
 *   pool, one descriptor.
 */
export async function mountFuse(
  tree: KernelFs,
  dir: string,
  options: MountOptions = {},
): Promise<Result<Mounted, MountRefusal>> {
  const place = await guardPlace(dir);
  if (!place.ok) return place;
  const { path } = place.value;
  if (place.value.stale) await run('umount', ['-i', '-l', path], UMOUNT_TIMEOUT_MS);
  const opened = openDevice();
  if (!opened.ok) return opened;
  const fd = opened.value;
  const tag = `dimmer-${process.pid}-${randomBytes(6).toString('hex')}`;
  const watchdog = startWatchdog(path, tag);

  let end: (e: MountEnd) => void = () => {};
  const closed = new Promise<MountEnd>((resolve) => {
    end = resolve;
  });
  let ended = false;
  const session = new FuseSession(tree, {
    reply: (bytes) => {
      if (!ended) writeReply(fd, bytes);
    },
    schedule: (turn, delayMs) => {
      const guarded = (): void => {
        if (ended) return;
        try {
          turn();
        } catch (error) {
          failed(error);
        }
      };
      if (delayMs === 0) setImmediate(guarded);
      else setTimeout(guarded, delayMs);
    },
    nowMs: () => performance.now(),
    timeS: Math.floor(Date.now() / 1000),
    writeTimeoutMs: options.writeTimeoutMs,
  });

  const onExit = (): void => watchdog.release();
  process.on('exit', onExit);
  let bug: unknown;
  /** The tree has a bug, or the device: nothing that it says from now on would be right. */
  const failed = (error: unknown): void => {
    bug ??= error;
    void detach();
  };
  /** Somebody may have mounted upon us: only what carries our tag is detached. */
  const detach = async (): Promise<void> => {
    if (topMount(await readMounts(), path)?.source !== tag) return;
    await run('umount', ['-i', '-f', '-l', path], UMOUNT_TIMEOUT_MS);
  };

  const service = serveDevice(
    fd,
    (request) => session.handle(request),
    async ({ error }) => {
      ended = true;
      bug ??= error;
      // Closing ends the connection: detaching a tree that nobody serves any more must not wait for an answer of it.
      fs.closeSync(fd);
      if (bug !== undefined) await detach();
      process.off('exit', onExit);
      watchdog.dismiss();
      end({ error: bug });
    },
  );

  const data = 'rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other';
  const mounting = await run('mount', ['-i', '-t', FUSE_TYPE, '-o', `fd=3,${data}`, tag, path], MOUNT_TIMEOUT_MS, fd);
  if (mounting.code !== 0) {
    service.stop();
    await detach();
    await closed;
    return refuseMount(
      /denied|superuser|not permitted/i.test(mounting.said) ? 'not-permitted' : 'mount-failed',
      `mount(8) would not mount ${path}: ${mounting.said || `it ended with ${mounting.code}`}`,
    );
  }

  const stillThere = async (): Promise<MountEnd> => {
    await new Promise((resolve) => setTimeout(resolve, UMOUNT_TIMEOUT_MS).unref());
    return { error: new Error(`${path} could not be unmounted; is something else mounted on top of it?`) };
  };
  let unmounting: Promise<MountEnd> | undefined;
  const unmount = (): Promise<MountEnd> => {
    unmounting ??= (async () => {
      if (!ended) {
        try {
          session.interruptAll();
        } catch (error) {
          bug ??= error;
        }
        await detach();
      }
      return Promise.race([closed, stillThere()]);
    })();
    return unmounting;
  };
  return ok({
    dir: path,
    tag,
    watchdogPid: watchdog.pid,
    closed,
    get held() {
      return session.held;
    },
    unmount,
  });
}

function openDevice(): Result<number, MountRefusal> {
  if (os.endianness() !== 'LE')
    return refuseMount(
      'byte-order',
      'mounting is not supported on a big-endian machine: the layouts are little-endian',
    );
  try {
    return ok(fs.openSync(FUSE_DEVICE, 'r+'));
  } catch (e) {
    const { code } = e as NodeJS.ErrnoException; // node's fs throws nothing else
    if (code === 'EACCES' || code === 'EPERM')
      return refuseMount('not-permitted', `${FUSE_DEVICE} may not be opened (${code}); mounting needs root`);
    return refuseMount('no-device', `${FUSE_DEVICE} is not there (${code}); the kernel needs FUSE: modprobe fuse`);
  }
}

/**
 * A child with an optional descriptor as its number 3, in a session of its own: Ctrl-C must not end an unmount half-way.
 * Never rejects; ends it when it takes too long.
 */
function run(
  command: string,
  args: readonly string[],
  timeoutMs: number,
  fd?: number,
): Promise<{ code: number; said: string }> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      stdio: ['ignore', 'ignore', 'pipe', ...(fd === undefined ? [] : [fd])],
      timeout: timeoutMs,
      detached: true,
      env: { ...process.env, LC_ALL: 'C' },
    });
    let said = '';
    child.stderr?.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    child.on('error', (e) => resolve({ code: 127, said: e.message }));
    child.on('close', (code) => resolve({ code: code ?? 1, said: said.trim().replace(/\s*\n\s*/g, '; ') }));
  });
}
