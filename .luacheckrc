std = "lua54"
max_line_length = 140
cache = false
ignore = { "581", "211/step" } -- not (x <= limit) is also true of a NaN; a <close> variable is there for its end
files["spec"] = { std = "lua54+busted" }
files["scripts/checks/suite.lua"] = { std = "lua54+busted" }
files["lua/kava/meta"] = { ignore = { "111", "113", "211", "212", "241", "631" } } -- declarations only
color = false
