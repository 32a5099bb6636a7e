// The device: reads requests from /dev/fuse, hands them to a session, writes its replies. Effects.
//
//   fs.read (one thread of Node's pool waits in the kernel) ──> session.handle ──> reply ──> fs.writeSync
//        ^─────────────────────────────────────────────────────────────┘
//
// One read is under way at a time: the session is one thread anyway, and three threads of the pool stay free for others.
// Replies are written at once: the device never makes a writer wait. Node's loop stays live between two requests.
//
// The waiting read cannot be taken back: closing the descriptor does not wake it, and process.exit() waits for the thread
// that is in it. Only the end of the connection ends it (ENODEV), which is why mount.ts ends that first.
//
// Follows Linux fs/fuse/dev.c: fuse_dev_do_read (EPERM before mount, ENODEV after), fuse_dev_do_write (ENOENT: the request
// is gone, aborted or answered).

import * as fs from 'node:fs';
import { MAX_WRITE_BYTES } from './session.ts';

/** The kernel wants room for its largest request: a header, a write's structure, and the data. */
const BUFFER_BYTES = MAX_WRITE_BYTES + 4096;
/** While mount(8) has not connected the descriptor yet, a read says EPERM; tried again each 2 ms. */
const CONNECT_RETRY_MS = 2;
const CONNECT_TRIES_MAX = 5000;
/** EINTR, EAGAIN and ENOENT (a request was taken back while it was read) in a row, without a request in between. */
const RETRIES_MAX = 1000;

export const FUSE_DEVICE = '/dev/fuse';

/** Why the connection ended: unmounted or aborted by somebody, or an error that is not weather. */
export type DeviceEnd = { readonly error: unknown };

export type Service = {
  /** No further read is begun; one that waits in the kernel goes on. For a descriptor that was never connected. */
  stop(): void;
};

/**
 * Serves a descriptor of /dev/fuse until its connection ends.
 * @param handle is given a view that is valid during the call; what it throws ends the service
 * @param onEnd called once, when no read is under way, so that the descriptor may be closed; `error` is undefined after an
 *   unmount
 */
export function serveDevice(
  fd: number,
  handle: (request: Uint8Array) => void,
  onEnd: (end: DeviceEnd) => void,
): Service {
  const buffer = new Uint8Array(BUFFER_BYTES);
  let connected = false;
  let stopped = false;
  let retries = 0;
  const next = (): void => {
    if (stopped) return onEnd({ error: undefined });
    fs.read(fd, buffer, 0, buffer.length, null, (e, length) => {
      if (e === null) {
        connected = true;
        retries = 0;
        try {
          handle(buffer.subarray(0, length));
        } catch (error) {
          return onEnd({ error });
        }
        return next();
      }
      const code = e.code ?? '';
      if (code === 'ENODEV' || code === 'ECONNABORTED') return onEnd({ error: undefined });
      retries++;
      if (code === 'EPERM' && !connected && retries < CONNECT_TRIES_MAX) return void setTimeout(next, CONNECT_RETRY_MS);
      if ((code === 'EINTR' || code === 'EAGAIN' || code === 'ENOENT') && retries < RETRIES_MAX) return next();
      onEnd({ error: e });
    });
  };
  next();
  return {
    stop: () => {
      stopped = true;
    },
  };
}

/** One reply. A request that is gone, or a connection that is over, needs none. */
export function writeReply(fd: number, bytes: Uint8Array): void {
  try {
    fs.writeSync(fd, bytes);
  } catch (e) {
    const code = (e as NodeJS.ErrnoException).code; // node's fs throws nothing else
    if (code !== 'ENOENT' && code !== 'ENODEV' && code !== 'EPERM' && code !== 'ECONNABORTED') throw e;
  }
}
