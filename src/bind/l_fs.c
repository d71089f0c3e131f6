/* bind/l_fs: kava.fs: what Lua's io and os leave out about files and folders. Failures of the world return nil, message
 * and code; the message names the path. */
#include "bind/bind.h"
#include "formats/writer.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int fail_path(lua_State *L, const char *path) { /* [-0, +3, m] nil, message, "io" from errno */
  int code = errno;
  lua_pushnil(L);
  lua_pushfstring(L, "%s: %s", path, strerror(code));
  lua_pushliteral(L, "io");
  return 3;
}

static int l_exists(lua_State *L) { /* [-0, +1, e] exists(path) */
  struct stat info;
  lua_pushboolean(L, stat(luaL_checkstring(L, 1), &info) == 0);
  return 1;
}

static int l_isdir(lua_State *L) { /* [-0, +1, e] isdir(path) */
  struct stat info;
  lua_pushboolean(L, stat(luaL_checkstring(L, 1), &info) == 0 && S_ISDIR(info.st_mode));
  return 1;
}

static int l_size(lua_State *L) { /* [-0, +1|3, e] size(path) -> bytes */
  const char *path = luaL_checkstring(L, 1);
  struct stat info;
  if (stat(path, &info) != 0) return fail_path(L, path);
  lua_pushinteger(L, (lua_Integer)info.st_size);
  return 1;
}

static int l_free(lua_State *L) { /* [-0, +1|3, e] free(path) -> bytes an unprivileged user may still write there */
  const char *path = luaL_checkstring(L, 1);
  struct statvfs info;
  if (statvfs(path, &info) != 0) return fail_path(L, path);
  lua_pushinteger(L, (lua_Integer)((uint64_t)info.f_bavail * info.f_frsize));
  return 1;
}

static int
l_mkdir(lua_State *L) { /* [-0, +1|3, e] mkdir(path) -> true; with the folders above it; one that is there is fine */
  size_t length;
  const char *path = luaL_checklstring(L, 1, &length);
  luaL_argcheck(L, length > 0 && length < PATH_MAX, 1, "a path expected");
  char part[PATH_MAX];
  for (size_t i = 1; i <= length; i++) {
    if (path[i] != '/' && path[i] != 0) continue;
    memcpy(part, path, i);
    part[i] = 0;
    struct stat info;
    if (mkdir(part, 0777) != 0 && (errno != EEXIST || stat(part, &info) != 0 || !S_ISDIR(info.st_mode)))
      return fail_path(L, part);
  }
  lua_pushboolean(L, 1);
  return 1;
}

static int l_remove(lua_State *L) { /* [-0, +1|3, e] remove(path) -> true; a file or an empty folder */
  const char *path = luaL_checkstring(L, 1);
  struct stat info;
  if (lstat(path, &info) != 0) return fail_path(L, path);
  if ((S_ISDIR(info.st_mode) ? rmdir(path) : unlink(path)) != 0) return fail_path(L, path);
  lua_pushboolean(L, 1);
  return 1;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where) {
  (void)info;
  (void)where;
  return (kind == FTW_DP || kind == FTW_DNR ? rmdir(path) : unlink(path)) != 0;
}

static int l_remove_tree(lua_State *L) { /* [-0, +1|3, e] remove_tree(path) -> true; links are removed, not followed */
  const char *path = luaL_checkstring(L, 1);
  struct stat info;
  if (lstat(path, &info) != 0) return fail_path(L, path);
  if ((S_ISDIR(info.st_mode) ? nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) : unlink(path)) != 0)
    return fail_path(L, path);
  lua_pushboolean(L, 1);
  return 1;
}

/* Best effort: some file systems refuse to sync a folder, and one that may not be read cannot be. */
static void sync_folder_of(const char *path) {
  const char *slash = strrchr(path, '/');
  size_t length = slash ? (size_t)(slash - path) + 1 : 1;
  char folder[PATH_MAX];
  if (length >= sizeof folder) return;
  memcpy(folder, slash ? path : ".", length);
  folder[length] = 0;
  int file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;
  fsync(file);
  close(file);
}

static int
l_rename(lua_State *L) { /* [-0, +1|3, e] rename(from, to) -> true; a file at `to` is replaced at once, and for good */
  const char *from = luaL_checkstring(L, 1), *to = luaL_checkstring(L, 2);
  if (rename(from, to) != 0) return fail_path(L, from);
  sync_folder_of(to);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_realpath(lua_State *L) { /* [-0, +1|3, e] realpath(path) -> absolute, links resolved */
  const char *path = luaL_checkstring(L, 1);
  char full[PATH_MAX];
  if (!realpath(path, full)) return fail_path(L, path);
  lua_pushstring(L, full);
  return 1;
}

static int
l_writable(lua_State *L) { /* [-0, +1|3, e] writable(path) -> true: this process may write to the file or folder */
  const char *path = luaL_checkstring(L, 1);
  if (access(path, W_OK) != 0) return fail_path(L, path);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_mtime(lua_State *L) { /* [-0, +1|3, e] mtime(path) -> seconds since 1970, with a fraction */
  const char *path = luaL_checkstring(L, 1);
  struct stat info;
  if (stat(path, &info) != 0) return fail_path(L, path);
  lua_pushnumber(L, (lua_Number)info.st_mtim.tv_sec + (lua_Number)info.st_mtim.tv_nsec * 1e-9);
  return 1;
}

static int l_write(lua_State *L) { /* [-0, +1|3, e] write(path, text) -> true; the file is whole or as it was before */
  size_t size;
  const char *path = luaL_checkstring(L, 1), *text = luaL_checklstring(L, 2, &size);
  kava_status st = kava_writer_file(path, text, size);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

/* An open folder in a box: reading names into Lua strings may raise. */
#define FOLDER_TYPE "kava.fs.Folder"

static int folder_gc(lua_State *L) {
  DIR **box = luaL_checkudata(L, 1, FOLDER_TYPE);
  if (*box) closedir(*box);
  *box = NULL;
  return 0;
}

static int l_list(lua_State *L) { /* [-0, +1|3, e] list(path) -> names, sorted, without . and .. */
  const char *path = luaL_checkstring(L, 1);
  DIR **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, FOLDER_TYPE);
  *box = opendir(path);
  if (!*box) return fail_path(L, path);
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "sort");
  lua_newtable(L);
  lua_Integer count = 0;
  for (const struct dirent *entry; (entry = readdir(*box));) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    lua_pushstring(L, entry->d_name);
    lua_rawseti(L, -2, ++count);
  }
  closedir(*box);
  *box = NULL;
  lua_pushvalue(L, -1);
  lua_insert(L, -3);
  lua_call(L, 1, 0); /* table.sort(names) */
  return 1;
}

/* A held lock: the open file; the system drops it with the process, however that ends. */
#define LOCK_TYPE "kava.Lock"

static int lock_gc(lua_State *L) {
  int *file = luaL_checkudata(L, 1, LOCK_TYPE);
  if (*file >= 0) close(*file);
  *file = -1;
  return 0;
}

static int l_lock(lua_State *L) { /* [-0, +1|3, e] lock(path) -> lock | nil, message, "busy" where another holds it */
  const char *path = luaL_checkstring(L, 1);
  int *file = lua_newuserdatauv(L, sizeof *file, 0);
  *file = -1;
  luaL_setmetatable(L, LOCK_TYPE);
  *file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (*file < 0) return fail_path(L, path);
  if (flock(*file, LOCK_EX | LOCK_NB) == 0) return 1;
  int code = errno;
  close(*file);
  *file = -1;
  errno = code;
  if (code != EWOULDBLOCK) return fail_path(L, path);
  lua_pushnil(L);
  lua_pushfstring(L, "%s: held by another process", path);
  lua_pushliteral(L, "busy");
  return 3;
}

void kava_l_open_fs(lua_State *L) {
  static const luaL_Reg functions[] = {{"exists", l_exists}, {"isdir", l_isdir},       {"size", l_size},
                                       {"free", l_free},     {"mkdir", l_mkdir},       {"remove", l_remove},
                                       {"write", l_write},   {"list", l_list},         {"remove_tree", l_remove_tree},
                                       {"rename", l_rename}, {"realpath", l_realpath}, {"writable", l_writable},
                                       {"mtime", l_mtime},   {"lock", l_lock},         {NULL, NULL}};
  static const luaL_Reg none[] = {{NULL, NULL}};
  kava_l_class(L, FOLDER_TYPE, none, folder_gc);
  kava_l_class(L, LOCK_TYPE, none, lock_gc);
  kava_l_subtable(L, "fs");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}
