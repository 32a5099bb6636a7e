// Types of cpio.mjs.

export type GuestFile =
  | { readonly data: Buffer; readonly program?: true }
  | { readonly link: string }
  | { readonly device: readonly [major: number, minor: number] }
  | { readonly dir: true };

export function writeCpio(files: ReadonlyMap<string, GuestFile>): Buffer;
