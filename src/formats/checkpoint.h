/* formats/checkpoint: the state of a run in one file: tensors and a text. The file is a safetensors file that any tool
 * reads; its metadata adds
 *
 *   kava.crc32c   8 hexadecimal digits of CRC-32C for the header (these 8 taken as zeros), then 8 for each tensor, in
 *                 the order of their data
 *   kava.state    the text
 *
 * A save replaces the file at once or leaves the one before as it was, whatever happens: a full disk, a crash, a kill.
 */
#ifndef KAVA_FORMATS_CHECKPOINT_H
#define KAVA_FORMATS_CHECKPOINT_H
#include "formats/safetensors.h"

/* Also removes what dead processes left of earlier attempts at this path. beside: as kava_writer's; the tensors are
 * contiguous then. */
kava_status kava_checkpoint_save(const char *path, int64_t count, kava_safetensors_item *items, kava_text state,
                                 void *beside);
/* Verifies every checksum. KAVA_FORMAT names what is damaged. `state` belongs to *out. */
kava_status kava_checkpoint_load(const char *path, kava_safetensors **out, kava_text *state);
#endif
