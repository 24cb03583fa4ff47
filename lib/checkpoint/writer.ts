// Writing a safetensors file.

import { open, rename, rm } from 'node:fs/promises'

import type { Tensor } from '../index.js'
import { bytesOf, layOut } from './memory.js'
import type { StoredTensor } from './reader.js'

const CHUNK_BYTES = 2 ** 30

/**
 * Writes tensors to a safetensors file. The file appears whole or not at all: it is written under another name beside
 * it and then renamed.
 *
 * @param file path of the file, which is replaced where it exists
 * @param tensors by name: Tensors of any device (read back to the host), or values in host memory
 * @param metadata strings to keep in the file
 */
export async function saveSafetensors(
  file: string,
  tensors: Readonly<Record<string, Tensor | StoredTensor>>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<void> {
  const stored: Record<string, StoredTensor> = {}
  for (const [name, t] of Object.entries(tensors)) {
    // Told apart by its form: this module works where the addon does not load.
    stored[name] =
      typeof t.data === 'function' ? { dtype: t.dtype, shape: t.shape, data: await t.data() } : (t as StoredTensor)
  }
  const { head, order } = layOut(stored, metadata)
  const draft = `${file}.${process.pid}.part`
  try {
    const handle = await open(draft, 'w')
    try {
      await handle.writeFile(head)
      let at = head.length
      for (const [, t] of order) {
        const bytes = bytesOf(t)
        for (let done = 0; done < bytes.length;) {
          const { bytesWritten } = await handle.write(bytes, done, Math.min(CHUNK_BYTES, bytes.length - done), at)
          done += bytesWritten
          at += bytesWritten
        }
      }
    } finally {
      await handle.close()
    }
    await rename(draft, file)
  } catch (error) {
    await rm(draft, { force: true })
    throw error
  }
}
