// The guard: where a tree may be mounted. Everything that is looked at here is read only.
//
//   refused: / itself; /sys, /proc, /dev and all below them; what is no directory; what has something in it;
//            a place where one of our trees is alive already
//   cleaned: a place where the mount of a server that has died is left (its watchdog normally has removed it)
//
// The path is resolved first, so that a link into /sys is /sys. Only the path of the mount is guarded here; that a
// command which is to drive a twin cannot reach the real tree is namespace.ts's business.

import * as fsp from 'node:fs/promises';
import { err, ok, type Result } from '#base/result';
import { FUSE_TYPE, parseMountinfo, topMount } from './mount-table.ts';

export type MountReason =
  | 'no-device'
  | 'not-permitted'
  | 'byte-order'
  | 'forbidden-place'
  | 'not-a-directory'
  | 'not-empty'
  | 'in-use'
  | 'mount-failed';

export type MountRefusal = { readonly reason: MountReason; readonly sentence: string };

const FORBIDDEN = ['/sys', '/proc', '/dev'];

export const refuseMount = (reason: MountReason, sentence: string): Result<never, MountRefusal> =>
  err({ reason, sentence });

export const readMounts = async (): Promise<ReturnType<typeof parseMountinfo>> =>
  parseMountinfo(await fsp.readFile('/proc/self/mountinfo', 'utf8'));

/**
 * The real path of a place that a tree may be mounted on.
 * @returns refusals forbidden-place, not-a-directory, not-empty, in-use; 'stale' asks the caller to detach first
 */
export async function guardPlace(dir: string): Promise<Result<{ path: string; stale: boolean }, MountRefusal>> {
  const path = await realPath(dir);
  if (path === undefined) return refuseMount('not-a-directory', `${dir} does not exist; make it first: mkdir ${dir}`);
  const forbidden = forbiddenPlace(path);
  if (forbidden !== undefined)
    return refuseMount('forbidden-place', `${forbidden} is never mounted upon; choose an empty directory`);
  if (topMount(await readMounts(), path)?.type === FUSE_TYPE) {
    const alive = await isAlive(path);
    return alive
      ? refuseMount('in-use', `${path} is a tree of dimmer already; unmount it first: umount ${path}`)
      : ok({ path, stale: true });
  }
  try {
    const names = await fsp.readdir(path);
    if (names.length > 0) return refuseMount('not-empty', `${path} is not empty; choose an empty directory`);
  } catch {
    return refuseMount('not-a-directory', `${path} is not a directory that can be read`);
  }
  return ok({ path, stale: false });
}

/** "/sys/kernel" -> "/sys/kernel"; "/mnt/t" -> undefined. The path is real: absolute, without links. */
export function forbiddenPlace(path: string): string | undefined {
  const forbidden = path === '/' || FORBIDDEN.some((f) => path === f || path.startsWith(`${f}/`));
  return forbidden ? path : undefined;
}

async function realPath(dir: string): Promise<string | undefined> {
  try {
    return await fsp.realpath(dir);
  } catch (e) {
    // A stale mount cannot be looked at (ENOTCONN); its parent can.
    if ((e as NodeJS.ErrnoException).code !== 'ENOTCONN') return undefined;
    const at = dir.replace(/\/+$/, '');
    const parent = await realPath(at.slice(0, at.lastIndexOf('/')) || '/');
    return parent === undefined ? undefined : `${parent === '/' ? '' : parent}/${at.slice(at.lastIndexOf('/') + 1)}`;
  }
}

/** A tree whose server is gone answers ENOTCONN. A server that does not answer within a second is alive, but stuck. */
async function isAlive(path: string): Promise<boolean> {
  const answer = fsp.stat(path).then(
    () => true,
    (e: NodeJS.ErrnoException) => e.code !== 'ENOTCONN',
  );
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(true), 1000);
  });
  const alive = await Promise.race([answer, patience]);
  clearTimeout(timer);
  return alive;
}
