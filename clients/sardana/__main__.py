"""Print where the plug-ins for Sardana are."""

from . import CONTROLLERS, MACROS

print(f"PoolPath   {CONTROLLERS}\nMacroPath  {MACROS}")
